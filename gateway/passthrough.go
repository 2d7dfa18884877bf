package gateway

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"spillway/auth"
	"spillway/auth/scope"
	"spillway/upstream/fhir"
)

// maxFormBytes is the largest form of a search by POST that is looked into.
const maxFormBytes = 1 << 20

// passThrough hands a request to the upstream: as it came, or, where a
// credential of ours is added on the way, only if its sender may do this.
func (s *server) passThrough(w http.ResponseWriter, r *http.Request) error {
	if !s.PassThroughGrant {
		s.Upstream.ServeHTTP(w, r)
		return nil
	}
	p, err := s.caller(r, nil)
	if err == nil && !s.enabled(p) {
		err = auth.ErrBadCredential
	}
	if err == nil && r.Method != http.MethodGet && r.Method != http.MethodHead && s.crossSite(r) {
		return fromElsewhere()
	}
	if err != nil {
		s.alert(w, r, p, "", reasonOf(err))
		return err
	}
	wanted, err := s.permitted(w, r, p)
	if err != nil {
		s.alert(w, r, p, "", reasonScope)
		return err
	}
	r = r.Clone(r.Context())
	if wanted.Need&scope.Read == 0 && !p.Grant.Permits(scope.Interaction{Type: wanted.Type, Need: scope.Read}) {
		r.Header.Set("Prefer", "return=minimal") // who may write may not read what was there before
	}
	s.withOurs(w, r)
	return nil
}

// permitted refuses what the sender's scopes do not grant, and what no scope
// can be told for.
func (s *server) permitted(w http.ResponseWriter, r *http.Request, p auth.Principal) (scope.Interaction, error) {
	path := strings.TrimPrefix(r.URL.EscapedPath(), s.site.base)
	var segments []string
	if path != "" && path != "/" {
		var problem *Problem
		if segments, problem = segmentsOf(path); problem != nil {
			return scope.Interaction{}, problem
		}
	}
	names, err := parameterNames(w, r, segments)
	if err != nil {
		return scope.Interaction{}, err
	}
	conditional := len(r.Header.Values("If-None-Exist")) > 0
	wanted, known := scope.Interact(r.Method, segments, names, conditional)
	switch {
	case !known:
		return wanted, refuse(http.StatusForbidden, fhir.IssueNotSupported,
			"Scopes cannot be told for this request, so it is not passed on: operations, batches and transactions are not.")
	case !p.Grant.Permits(wanted):
		problem := refuse(http.StatusForbidden, fhir.IssueForbidden, "The scopes granted do not allow this request.")
		if s.Auth.RequiresToken() {
			problem.header = map[string]string{"WWW-Authenticate": `Bearer error="insufficient_scope", scope="system/` + wanted.Type + "." + wanted.Need.String() + `"`}
		}
		return wanted, problem
	}
	return wanted, nil
}

// parameterNames returns the names of the parameters of a request: of its query,
// and of the form of a search, which is read and put back.
func parameterNames(w http.ResponseWriter, r *http.Request, segments []string) ([]string, error) {
	malformed := refuse(http.StatusBadRequest, fhir.IssueInvalid, "The parameters are malformed: there is a bad percent escape or a bare semicolon.")
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, malformed
	}
	var names []string
	for name := range query {
		names = append(names, name)
	}
	if n := len(segments); r.Method != http.MethodPost || n == 0 || segments[n-1] != "_search" {
		return names, nil
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" || r.Header.Get("Content-Encoding") != "" {
		return nil, refuse(http.StatusUnsupportedMediaType, fhir.IssueNotSupported, "The body of a search is a form, not compressed.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFormBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(http.StatusRequestEntityTooLarge, fhir.IssueTooLong, "The body of a search is larger than %d bytes.", maxFormBytes)
	case err != nil:
		return nil, refuse(http.StatusBadRequest, fhir.IssueIncomplete, "The body of the search did not arrive whole.")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, malformed
	}
	for name := range form {
		names = append(names, name)
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	return names, nil
}

// withOurs hands a request on without the credential of its sender, since one of
// ours is added.
func (s *server) withOurs(w http.ResponseWriter, r *http.Request) {
	r = r.Clone(r.Context())
	r.Header.Del("Authorization")
	r.Header.Del("Cookie")
	guarded := &ourCredential{ResponseWriter: w}
	s.Upstream.ServeHTTP(guarded, r)
	if guarded.status != 0 {
		s.logger.ErrorContext(r.Context(), "the upstream does not accept our credential", "status", guarded.status)
		s.writeProblem(w, r, refuse(http.StatusBadGateway, fhir.IssueTransient, "The FHIR server behind this gateway refused the gateway."))
	}
}

// upstream asks for what is public.
func (s *server) upstream(w http.ResponseWriter, r *http.Request) error {
	if !s.PassThroughGrant {
		s.Upstream.ServeHTTP(w, r)
		return nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return refuse(http.StatusBadRequest, fhir.IssueInvalid, "The query is malformed.")
	}
	for name := range query { // some servers answer others, such as _getpages, at any path
		if !slices.Contains([]string{"_format", "_pretty", "_summary", "_elements", "mode"}, name) {
			return refuse(http.StatusBadRequest, fhir.IssueNotSupported, "The parameter %s is not passed on here.", shown(name))
		}
	}
	s.withOurs(w, r)
	return nil
}

// ourCredential keeps back answers that say that our credential is not accepted:
// they would send the client to somebody who does not know it.
type ourCredential struct {
	http.ResponseWriter
	status int // that was kept back; 0: none
}

// Unwrap lets http.ResponseController reach the connection.
func (c *ourCredential) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *ourCredential) WriteHeader(status int) {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		c.status = status
		clear(c.Header())
		return
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *ourCredential) Write(p []byte) (int, error) {
	if c.status != 0 {
		return len(p), nil
	}
	return c.ResponseWriter.Write(p)
}

// Flush sends what there is, of an answer that is passed on.
func (c *ourCredential) Flush() {
	if c.status == 0 {
		_ = http.NewResponseController(c.ResponseWriter).Flush() // recorders in tests need none
	}
}
