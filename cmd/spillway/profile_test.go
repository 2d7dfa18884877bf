package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckProfile looks at what check says of the kind of server.
func TestCheckProfile(t *testing.T) {
	t.Chdir(t.TempDir())
	like := func(name string) string {
		o := few()
		o.Like = name
		_, url := fake(t, o)
		return url
	}
	if err := os.WriteFile("ours.yaml", []byte("like: epic\npatients: {group: group-all}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("wrong.yaml", []byte("like: epic\npatient: {group: group-all}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, line string
		status     int
		out        []string
		err        string
	}{
		{name: "OKAuto", line: "check --upstream " + like("google"), out: []string{
			`  profile               google (software.name says "Google Cloud Healthcare")`, "by the profile alone  counts: last-page", "probes not made       counts, post", "settle                1m0s (profile)",
		}},
		{name: "OKGeneric", line: "check --upstream " + like(""), out: []string{"generic (neither its statement nor its address is known)", "5s (default)"}},
		{name: "OKNamed", line: "check --profile medplum --upstream " + like("hapi"), out: []string{
			"medplum (the configuration names it)", "overruled by probes  direct pages: works, the profile says ignored", "history of the whole server: works, the profile says refused",
		}},
		{name: "OKByPatient", line: "check --upstream " + like("epic"), out: []string{
			"found by patient      ", "export a Group or named patients", "! Searched only with: Observation (category=vital-signs, ", "! These types cannot be searched as a whole there",
		}},
		{name: "OKFile", line: "check --profile ours.yaml --upstream " + like("epic"), out: []string{"ours.yaml (the configuration names it)", "are of the members of the Group that the profile names"}},
		{name: "ErrFile", line: "check --profile wrong.yaml --upstream http://127.0.0.1:1/fhir", status: exitUsage, err: `--profile: "wrong.yaml": wrong.yaml: line 2: key patient is not known in file`},
		{name: "ErrName", line: "export --profile hapy --out x --upstream http://127.0.0.1:1/fhir", status: exitUsage, err: `--profile: "hapy": it is neither auto, nor a built-in profile (blaze, cerner, `},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := spillway(t.Context(), strings.Fields(test.line)...)
			if got.status != test.status || !strings.Contains(got.err, test.err) {
				t.Errorf("status %d, %s", got.status, got.err)
			}
			for _, want := range test.out {
				if !strings.Contains(got.out, want) {
					t.Errorf("standard output lacks %q", want)
				}
			}
			if t.Failed() {
				t.Logf("out:\n%s", got.out)
			}
		})
	}
}

// TestExportByProfile exports a server that is searched by patient.
func TestExportByProfile(t *testing.T) {
	o := few()
	o.Like = "epic"
	server, url := fake(t, o)
	dir := t.TempDir()
	got := spillway(t.Context(), exportLine(url, filepath.Join(dir, "all"))...)
	if got.status != exitFailed || !strings.Contains(got.err, "its patients cannot be listed") {
		t.Errorf("everything: %+v", got)
	}
	got = spillway(t.Context(), exportLine(url, filepath.Join(dir, "group"), "--group", "group-all", "--type", "Patient,Encounter")...)
	if got.status != exitIncomplete || !strings.Contains(got.err, "gives no usable counts") {
		t.Errorf("a group: %+v", got)
	}
	profile := filepath.Join(dir, "ours.yaml")
	if err := os.WriteFile(profile, []byte("like: epic\npatients: {group: group-all}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got = spillway(t.Context(), exportLine(url, filepath.Join(dir, "ours"), "--profile", profile, "--type", "Patient,Encounter")...)
	if got.status != exitIncomplete {
		t.Errorf("the profile's group: %+v", got)
	}
	for _, name := range []string{"group", "ours"} {
		if found, want := readDir(t, filepath.Join(dir, name)), truth(server, "Patient", "Encounter"); len(found) != len(want) {
			t.Errorf("%s: %d resources, the server has %d", name, len(found), len(want))
		}
	}
}
