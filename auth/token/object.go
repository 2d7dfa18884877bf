package token

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// An object is a JSON object whose members are read one by one. Names are
// unique at every depth and compared to the letter.
type object map[string]jsontext.Value

var errNotObject = errors.New("not one JSON object")

// readObject reads b, which must hold one object and nothing else, in UTF-8.
func readObject(b []byte) (object, error) {
	d := jsontext.NewDecoder(bytes.NewReader(b)) // refuses members twice, and what is not UTF-8
	whole, err := d.ReadValue()
	if err != nil {
		return nil, err
	}
	whole = whole.Clone()
	if _, err := d.ReadToken(); err != io.EOF || whole.Kind() != jsontext.BeginObject.Kind() {
		return nil, errNotObject
	}
	o := object{}
	d = jsontext.NewDecoder(bytes.NewReader(whole))
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	for d.PeekKind() != jsontext.EndObject.Kind() {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		o[key] = value.Clone()
	}
	return o, nil
}

// has reports whether any of the members is there, whatever its value.
func (o object) has(names ...string) bool {
	for _, name := range names {
		if _, ok := o[name]; ok {
			return true
		}
	}
	return false
}

// text returns a member that is a string. It is false for every other kind.
func (o object) text(name string) (string, bool) { return textOf(o[name]) }

func textOf(v jsontext.Value) (string, bool) {
	if v.Kind() != '"' {
		return "", false
	}
	b, err := jsontext.AppendUnquote(nil, v)
	return string(b), err == nil
}

// list returns the values of a member that is an array.
func (o object) list(name string) ([]jsontext.Value, bool) {
	v := o[name]
	if v.Kind() != jsontext.BeginArray.Kind() {
		return nil, false
	}
	d := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := d.ReadToken(); err != nil {
		return nil, false
	}
	list := []jsontext.Value{}
	for d.PeekKind() != jsontext.EndArray.Kind() {
		item, err := d.ReadValue()
		if err != nil {
			return nil, false
		}
		list = append(list, item.Clone())
	}
	return list, true
}

// texts returns a member that is a string, or an array of strings.
func (o object) texts(name string) ([]string, bool) {
	if s, ok := o.text(name); ok {
		return []string{s}, true
	}
	list, ok := o.list(name)
	if !ok {
		return nil, false
	}
	texts := make([]string, len(list))
	for i, v := range list {
		if texts[i], ok = textOf(v); !ok {
			return nil, false
		}
	}
	return texts, true
}

// maxSecondsDigits keeps instants before the year 5138.
const maxSecondsDigits = 11

// instant returns a member that is a count of seconds since 1970: a positive
// integer, written as such. A zero Time and true mean that there is none.
func (o object) instant(name string) (time.Time, bool) {
	v, ok := o[name]
	if !ok {
		return time.Time{}, true
	}
	if len(v) > maxSecondsDigits {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseUint(string(v), 10, 63)
	if err != nil || seconds == 0 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}
