package export_test

import (
	"fmt"
	"strings"
	"testing"

	"spillway/jobs"
	"spillway/test/fakefhir"
)

// tied returns a server with n Observations in one millisecond, as HAPI stamps
// a transaction, among others of their own time.
func tied(t *testing.T, w *world, n int) {
	t.Helper()
	put := func(tx *fakefhir.Tx, id string) {
		must(t, tx.Put("Observation", id, []byte(`{"resourceType":"Observation","id":"`+id+`","status":"final","code":{"text":"x"}}`)))
	}
	for i := range 50 {
		_, err := w.srv.Put("Observation", fmt.Sprintf("before-%d", i), []byte(fmt.Sprintf(`{"resourceType":"Observation","id":"before-%d"}`, i)))
		must(t, err)
	}
	tx := w.srv.Begin()
	for i := range n {
		put(tx, fmt.Sprintf("tied-%d", i))
	}
	tx.Commit()
	for i := range 50 {
		_, err := w.srv.Put("Observation", fmt.Sprintf("after-%d", i), []byte(fmt.Sprintf(`{"resourceType":"Observation","id":"after-%d"}`, i)))
		must(t, err)
	}
}

// TestKeyset reads 1,379 resources of one millisecond, whatever the size of
// pages and windows and whichever way of paging works.
func TestKeyset(t *testing.T) {
	for _, test := range []struct {
		name string
		settings
		faults []fakefhir.Fault
	}{
		{name: "OKDirect", settings: settings{pageSize: 1000, window: 10_000}},
		{name: "OKDirectOnePage", settings: settings{pageSize: 5000, window: 10_000, server: fakefhir.Options{PageMax: 5000}}},
		{name: "OKDirectSmallPages", settings: settings{pageSize: 10}},
		{name: "OKDirectClamped", settings: settings{pageSize: 1000, server: fakefhir.Options{PageMax: 50}}},
		{name: "OKLinks", settings: settings{pageSize: 100, server: fakefhir.Options{NoDirect: true}}},
		{name: "OKLinksEndEarly", settings: settings{pageSize: 900, window: 10_000, server: fakefhir.Options{NoDirect: true}},
			faults: []fakefhir.Fault{{Match: fakefhir.Match{Type: "Observation"}, Do: fakefhir.Do{EndChainEarly: 2}}}},
		{name: "OKLinksAlwaysGone", settings: settings{pageSize: 2000, window: 10_000, server: fakefhir.Options{NoDirect: true, PageMax: 2000}},
			faults: []fakefhir.Fault{{Match: fakefhir.Match{Type: "Observation"}, Do: fakefhir.Do{GoneNext: true}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, test.settings)
			tied(t, w, 1379)
			_, err := w.client.Learn(t.Context())
			must(t, err)
			w.srv.Script(test.faults...)
			job := w.run(t, jobs.Request{Types: []string{"Observation"}})
			got, issues := w.exported(t, job), w.issues(t, job)
			w.srv.Reset()
			same(t, got, only(w.truth(t), func(typ, _ string, _ []byte) bool { return typ == "Observation" }))
			if len(issues) > 0 {
				t.Errorf("issues: %q", issues)
			}
		})
	}
}

// TestDirectPagesNeedNoLinks wants no next link to be followed where the
// upstream reads pages directly and no millisecond fills one.
func TestDirectPagesNeedNoLinks(t *testing.T) {
	w := newWorld(t, settings{pageSize: 400})
	_, err := w.client.Learn(t.Context())
	must(t, err)
	w.srv.Reset()
	same(t, w.exported(t, w.run(t, jobs.Request{})), w.truth(t))
	for _, r := range w.srv.Log() {
		if r.Kind == fakefhir.KindNext {
			t.Errorf("a next link was followed: %s", r.Query)
		}
		if r.Kind == fakefhir.KindSearch && r.Entries > 1 && !strings.HasPrefix(r.Header.Get("Cache-Control"), "no-store") {
			t.Errorf("a page was not asked for directly: %s %s", r.Type, r.Query)
		}
	}
}

// TestTiesAreReadOnce reads transactions of 37 resources each in pages of 100,
// which would end amid one of them. Where the upstream can be asked where a page
// ends, few resources come twice.
func TestTiesAreReadOnce(t *testing.T) {
	w := newWorld(t, settings{pageSize: 100, window: 10_000})
	const transactions, each = 60, 37
	for i := range transactions {
		tx := w.srv.Begin()
		for n := range each {
			id := fmt.Sprintf("t%d-%d", i, n)
			must(t, tx.Put("Basic", id, []byte(`{"resourceType":"Basic","id":"`+id+`","code":{"text":"x"}}`)))
		}
		tx.Commit()
	}
	_, err := w.client.Learn(t.Context())
	must(t, err)
	w.srv.Reset()
	job := w.run(t, jobs.Request{Types: []string{"Basic"}})
	same(t, w.exported(t, job), only(w.truth(t), func(typ, _ string, _ []byte) bool { return typ == "Basic" }))
	came, asked := 0, 0
	for _, r := range w.srv.Log() {
		came += r.Entries
		if r.Kind == fakefhir.KindSearch && r.Entries > 0 {
			asked++
		}
	}
	if most := transactions * each * 11 / 10; came > most {
		t.Errorf("%d resources came in %d searches, want at most %d", came, asked, most)
	}
}
