package auth

import (
	"net/http"
	"testing"
)

func TestNoneTakesEverybodyForTheSameClient(t *testing.T) {
	a := None()
	for _, credential := range []string{"", "Bearer ", "Bearer abc", "Basic eDp5"} {
		r, err := http.NewRequest(http.MethodGet, "http://example.org/fhir/$export", nil)
		if err != nil {
			t.Fatal(err)
		}
		if credential != "" {
			r.Header.Set("Authorization", credential)
		}
		p, err := a.Authenticate(r)
		if err != nil || p != (Principal{}) {
			t.Errorf("Authorization %q: got %+v, %v", credential, p, err)
		}
	}
	if a.RequiresToken() {
		t.Error("manifests would ask for a token that nobody checks")
	}
}
