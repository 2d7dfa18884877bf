package main

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"spillway/auth/audit"
)

// TestAuditAway: what cannot be recorded is refused, and nothing of a file leaves;
// with on_failure: warn it is done all the same.
func TestAuditAway(t *testing.T) {
	for _, test := range []struct {
		name, yaml                     string
		token, kickOff, file, download int
	}{
		{"Deny", "", http.StatusServiceUnavailable, http.StatusServiceUnavailable, http.StatusServiceUnavailable, 0},
		{"Warn", "audit: {on_failure: warn}\n", http.StatusOK, http.StatusAccepted, http.StatusOK, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, upstream := fake(t, few())
			b := newBackend(t, "a", jose.ES384, "system/Patient.rs")
			cfg := configured(t, upstream, builtinYAML("", b)+test.yaml)
			r := start(t, cfg, halves{web: true, work: true})
			r.health(t, http.StatusOK)
			base := r.publicURL.String()
			client := r.with(b.token(t, base))
			_, files, _ := client.whole(t, "?_type=Patient")
			endpoint := tokenEndpoint(t, base)

			if err := os.Remove(cfg.Audit.File); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(cfg.Audit.File, 0o700); err != nil {
				t.Fatal(err)
			}
			if got := present(t, endpoint, b.assertion(t, endpoint, "k1"), b.scope); got.status != test.token || (got.Token != "") != (test.token == http.StatusOK) {
				t.Errorf("token: %+v", got)
			}
			if got := client.ask(t, http.MethodGet, base+"/$export?_type=Patient"); got != test.kickOff {
				t.Errorf("kick-off: %d", got)
			}
			answer, err := client.http.Get(files[0])
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if answer.StatusCode != test.file || strings.Contains(string(body), `"Patient"`) != (test.download > 0) || err != nil {
				t.Errorf("file: %s, %v, %.200s", answer.Status, err, body)
			}
			if got := client.ask(t, http.MethodGet, base+"/Patient?_count=1"); got != http.StatusOK {
				t.Errorf("what goes through needs no record: %d", got)
			}
			_, metrics := r.get(t, r.admin, "/metrics")
			if strings.Contains(metrics, "spillway_audit_failures_total 0\n") || !strings.Contains(metrics, "spillway_audit_failures_total") {
				t.Error("/metrics does not count the failures")
			}
		})
	}
}

// TestAuditVerify: a record that was touched is told, with file and line.
func TestAuditVerify(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(file string, key []byte) []string {
		f, err := audit.OpenFile(file)
		if err != nil {
			t.Fatal(err)
		}
		l, err := audit.Open(audit.Options{Process: "p", Sinks: []audit.Sink{f}, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		for _, reason := range []string{"a", "b", "c"} {
			if err := l.Record(t.Context(), audit.Event{Kind: audit.KindAlert, Outcome: audit.OutcomeRefused, Reason: reason}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitAfter(string(text), "\n")
	}
	key := strings.Repeat("k", 32)
	put(t, "key", key+"\n")
	lines := write("plain", nil)
	write("keyed", []byte(key))
	put(t, "first", lines[0]+lines[1])
	put(t, "second", lines[2])
	put(t, "gap", lines[0]+lines[2])
	put(t, "changed", lines[0]+strings.Replace(lines[1], `"b"`, `"x"`, 1)+lines[2])
	put(t, "torn", lines[0]+lines[1][:20])
	put(t, "empty", "")
	put(t, "open", key)
	if err := os.Chmod("open", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		line   string
		status int
		out    string // how standard output begins
		err    string
	}{
		{"plain", 0, "whole: 3 events, 1 to 3, from ", ""},
		{"first second", 0, "whole: 3 events, 1 to 3, from ", ""},
		{"second", 0, "whole: 1 event, 3 to 3, from ", ""},
		{"--key-file key keyed", 0, "whole: 3 events", ""},
		{"keyed", 1, "", "spillway: keyed:1: it was changed, or written with another key\n"},
		{"--key-file key plain", 1, "", "spillway: plain:1: it was changed, or written with another key\n"},
		{"gap", 1, "", "spillway: gap:2: event 3 follows event 1\n"},
		{"changed", 1, "", "spillway: changed:2: it was changed, or written with another key\n"},
		{"first gap", 1, "", "spillway: gap:1: event 1 follows event 2\n"},
		{"torn", 1, "", "spillway: torn:2: it has no end\n"},
		{"empty", 1, "", "spillway: there is no event in it\n"},
		{"absent", 2, "", "spillway: open absent: no such file or directory\n"},
		{"--key-file open plain", 2, "", "spillway: --key-file: the file open can be read or changed by everybody; take that right away (chmod o= open)\n"},
		{"", 2, "", "spillway: verify takes the files of an audit, the oldest first\n"},
	} {
		got := spillway(t.Context(), append([]string{"audit", "verify"}, strings.Fields(test.line)...)...)
		if got.status != test.status || got.err != test.err || !strings.HasPrefix(got.out, test.out) || (got.out == "") != (test.out == "") {
			t.Errorf("audit verify %s: %+v", test.line, got)
		}
	}
	if got := spillway(t.Context(), "audit"); got.status != 2 || !strings.Contains(got.out+got.err, "verify") {
		t.Errorf("audit: %+v", got)
	}
}
