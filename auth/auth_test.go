package auth

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"spillway/auth/scope"
)

func request(t *testing.T, authorization ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.org/fhir/$export?access_token=abc", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header["Authorization"] = authorization
	return r
}

func TestNoneTakesEverybodyForTheSameClient(t *testing.T) {
	a := None()
	for _, credential := range []string{"", "Bearer ", "Bearer abc", "Basic eDp5"} {
		p, err := a.Authenticate(request(t, credential))
		if err != nil || p.ClientID != "" || !p.Groups.Allows("7") || !p.Grant.Allows("Patient", scope.Read|scope.Search).All {
			t.Errorf("Authorization %q: got %+v, %v", credential, p, err)
		}
	}
	if a.RequiresToken() {
		t.Error("manifests would ask for a token that nobody checks")
	}
}

func TestZeroPrincipalMayDoNothing(t *testing.T) {
	var p Principal
	if p.Groups.Allows("") || !p.Grant.Empty() || !p.Grant.Allows("Patient", scope.Read).None() {
		t.Errorf("%+v", p)
	}
}

func TestBearerToken(t *testing.T) {
	for _, tt := range []struct {
		headers []string
		token   string
		err     error
	}{
		{nil, "", ErrNoCredential},
		{[]string{""}, "", ErrNoCredential},
		{[]string{"Basic eDp5"}, "", ErrNoCredential},
		{[]string{"Bearer a.b-c_d~e+f/g=="}, "a.b-c_d~e+f/g==", nil},
		{[]string{"bearer abc"}, "abc", nil},
		{[]string{"Bearer"}, "", ErrMalformed},
		{[]string{"Bearer "}, "", ErrMalformed},
		{[]string{"Bearer a b"}, "", ErrMalformed},
		{[]string{"Bearer a, Bearer b"}, "", ErrMalformed},
		{[]string{"Bearer a,b"}, "", ErrMalformed},
		{[]string{"Bearer a", "Bearer b"}, "", ErrMalformed},
		{[]string{"Bearer =a"}, "", ErrMalformed},
		{[]string{"Bearer ä"}, "", ErrMalformed},
		{[]string{"Bearerabc"}, "", ErrNoCredential},
	} {
		token, err := BearerToken(request(t, tt.headers...).Header)
		if token != tt.token || !errors.Is(err, tt.err) {
			t.Errorf("%q: %q, %v", tt.headers, token, err)
		}
	}
}

func TestChallenge(t *testing.T) {
	for want, err := range map[string]error{
		`Bearer realm="fhir"`:                                              ErrNoCredential,
		`Bearer error="invalid_request"`:                                   ErrMalformed,
		`Bearer error="invalid_token"`:                                     fmt.Errorf("%w: expired", ErrBadCredential),
		`Bearer error="insufficient_scope", scope="system/Observation.rs"`: &scope.RefusedError{Types: []string{"Observation"}},
		"": ErrUnavailable,
	} {
		if got := Challenge(err); got != want {
			t.Errorf("%v: %s", err, got)
		}
	}
}

// one is always the same client.
type one struct{ id string }

func (o one) Authenticate(*http.Request) (Principal, error) {
	if o.id == "" {
		return Principal{ClientID: "nobody"}, ErrNoCredential
	}
	return Principal{ClientID: o.id, Groups: Groups{All: true}}, nil
}

func (one) RequiresToken() bool { return true }

func TestRestrict(t *testing.T) {
	policies := map[string]Policy{
		"a": {Groups: Groups{IDs: []string{"1", "2"}}},
		"b": {Groups: Groups{All: true}, Disabled: true},
	}
	for _, tt := range []struct {
		client string
		groups string // those allowed of 1, 2, 3
		err    error
	}{
		{"a", "12", nil},
		{"b", "", ErrBadCredential},
		{"c", "3", nil},
		{"", "", ErrNoCredential},
	} {
		a := Restrict(one{tt.client}, policies, Policy{Groups: Groups{IDs: []string{"3"}}})
		p, err := a.Authenticate(request(t))
		groups := ""
		for _, id := range []string{"1", "2", "3"} {
			if p.Groups.Allows(id) {
				groups += id
			}
		}
		if groups != tt.groups || !errors.Is(err, tt.err) || err != nil && p.ClientID != "" || !a.RequiresToken() {
			t.Errorf("%q: groups %q, %+v, %v", tt.client, groups, p, err)
		}
	}
}
