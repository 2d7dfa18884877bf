package jobs

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDigest(t *testing.T) {
	one := File{Segments: []Segment{{Encoding: EncodingIdentity, SHA256: "aa"}}}
	packed := File{Segments: []Segment{{Encoding: EncodingGzip, SHA256: "stored", PlainSHA256: "bb"}}}
	old := File{Segments: []Segment{{Encoding: EncodingGzip, SHA256: "stored"}}}
	for _, tt := range []struct {
		files []File
		want  string
	}{
		{nil, ""}, {[]File{one}, "aa"}, {[]File{packed}, "bb"}, {[]File{one, old}, ""},
		{[]File{one, packed}, "329d670e59ead1543a2d36865895972560bc434204c5f4a0c8219005dd312719"},
	} {
		if got := Digest(tt.files...); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.files, got, tt.want)
		}
	}
}

func TestIDs(t *testing.T) {
	seen := make(map[ID]bool)
	for range 1000 {
		id := NewID()
		if parsed, ok := ParseID(string(id)); !ok || parsed != id || seen[id] {
			t.Fatalf("NewID gave %q", id)
		}
		seen[id] = true
		if got, ok := IDOfKey(id.KeyPrefix() + "slice-1/2.Patient.ndjson.gz"); !ok || got != id {
			t.Errorf("IDOfKey of a key of %q gave %q, %v", id, got, ok)
		}
	}
	good := string(NewID())
	for _, bad := range []string{"", ".", "..", good[1:], good + "a", strings.ToUpper(good), good[:25] + "1", good[:25] + "/", good[:24] + "\r\n", "../" + good[3:]} {
		if _, ok := ParseID(bad); ok {
			t.Errorf("ParseID took %q", bad)
		}
	}
	for _, bad := range []string{"", good, "x/" + good, "/" + good} {
		if _, ok := IDOfKey(bad); ok {
			t.Errorf("IDOfKey took %q", bad)
		}
	}
}

// TestCloneSharesNothing fills every field by reflection, so that a field added
// later without a copy in Clone is found.
func TestCloneSharesNothing(t *testing.T) {
	var j Job
	fill(reflect.ValueOf(&j).Elem())
	c := j.Clone()
	if !reflect.DeepEqual(&j, c) {
		t.Fatalf("the clone differs:\n%+v\n%+v", j, *c)
	}
	if path := shared(reflect.ValueOf(j), reflect.ValueOf(*c), "Job"); path != "" {
		t.Errorf("%s is shared", path)
	}
}

func fill(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(1, 0)))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.SetMapIndex(key, value)
	case v.Kind() == reflect.String:
		v.SetString("x")
	case v.CanInt():
		v.SetInt(1)
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	}
}

// shared returns the path of the first slice or map that both values share.
func shared(x, y reflect.Value, path string) string {
	switch {
	case x.Type() == reflect.TypeFor[time.Time]():
		return ""
	case x.Kind() == reflect.Struct:
		for i := range x.NumField() {
			if p := shared(x.Field(i), y.Field(i), path+"."+x.Type().Field(i).Name); p != "" {
				return p
			}
		}
	case x.Kind() == reflect.Slice:
		if x.Pointer() == y.Pointer() {
			return path
		}
		return shared(x.Index(0), y.Index(0), path+"[0]")
	case x.Kind() == reflect.Map && x.Pointer() == y.Pointer():
		return path
	}
	return ""
}

func TestStages(t *testing.T) {
	order := []UnitKind{UnitPlan, UnitSlice, UnitTail, UnitAssociated, UnitDeleted, UnitFinish, "from-the-future"}
	for i, kind := range order {
		if kind.Stage() != i {
			t.Errorf("%s is at stage %d, want %d", kind, kind.Stage(), i)
		}
	}
}

func TestProgress(t *testing.T) {
	p := Progress{Types: map[string]TypeProgress{"A": {Expected: 3, Done: 1, Bytes: 10}, "B": {Expected: 4, Done: 4, Bytes: 5}}}
	if resources, bytes := p.Done(); resources != 5 || bytes != 15 || p.Expected() != 7 {
		t.Errorf("done %d, %d bytes, expected %d", resources, bytes, p.Expected())
	}
	for state, ended := range map[State]bool{Queued: false, Running: false, Completed: true, Failed: true, Canceled: true} {
		if state.Ended() != ended {
			t.Errorf("%s: ended is %v", state, !ended)
		}
	}
}
