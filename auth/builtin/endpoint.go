package builtin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"spillway/auth"
	"spillway/auth/scope"
	"spillway/auth/token"
)

const (
	maxBody  = 64 << 10
	maxScope = 4 << 10 // of a token: a header must hold it

	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	retryAfter    = 5 * time.Second
)

// A problem is why a request gets no token. Its text is told; reason is not.
// Source: RFC 6749, 5.2.
type problem struct {
	status int
	code   string
	text   string // without quotes, backslashes and what is not ASCII

	reason string
	wait   time.Duration // becomes Retry-After; zero: none
	scheme string        // of the Authorization header that the client used
}

func (p *problem) Error() string { return "builtin: " + p.code + ": " + p.reason }

func invalidRequest(text string) *problem {
	return &problem{status: http.StatusBadRequest, code: "invalid_request", text: text, reason: "request"}
}

func invalidScope(text string) *problem {
	return &problem{status: http.StatusBadRequest, code: "invalid_scope", text: text, reason: "scope"}
}

// invalidClient is the answer to everything that is wrong with an assertion.
func invalidClient(reason string) *problem {
	return &problem{status: http.StatusUnauthorized, code: "invalid_client", text: "The client could not be authenticated.", reason: reason}
}

// busy is the answer when we cannot decide, or do not want to now.
func busy(status int, reason string, wait time.Duration) *problem {
	return &problem{status: status, code: "temporarily_unavailable", text: "Try again later.", reason: reason, wait: wait}
}

// A success is the answer that carries a token.
// Source: SMART App Launch, Backend Services, "Issue access token".
type success struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"` // seconds
	Scope       string `json:"scope"`
}

// TokenHandler is the token endpoint.
func (s *Server) TokenHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Pragma", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodPost {
			h.Set("Allow", http.MethodPost)
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		var d Decision
		granted, err := s.token(w, r, &d)
		var p *problem
		if err != nil && !errors.As(err, &p) {
			p = busy(http.StatusServiceUnavailable, "internal", retryAfter)
		}
		if p != nil {
			d = Decision{Client: d.Client, AssertionID: d.AssertionID, KeyID: d.KeyID, Reason: p.reason}
		}
		if s.c.Observe != nil {
			if err := s.c.Observe(r, d); err != nil && p == nil {
				p = busy(http.StatusServiceUnavailable, "audit", retryAfter)
			}
		}
		if p != nil {
			p.write(w)
			return
		}
		write(w, http.StatusOK, granted)
	})
}

func (p *problem) write(w http.ResponseWriter) {
	if p.wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((p.wait+time.Second-1)/time.Second), 10))
	}
	if p.scheme != "" {
		w.Header().Set("WWW-Authenticate", p.scheme+` realm="token"`)
	}
	write(w, p.status, map[string]string{"error": p.code, "error_description": p.text})
}

func write(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		panic("builtin: strings do not encode: " + err.Error()) // impossible
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // fails only when the client has gone
}

// token answers a request. Its phases cannot be skipped and do not change
// places: first the form, then the client, then what it may have.
func (s *Server) token(w http.ResponseWriter, r *http.Request, d *Decision) (*success, error) {
	if s.c.Limit != nil {
		if wait := s.c.Limit(r, ""); wait > 0 {
			return nil, busy(http.StatusTooManyRequests, "limit", wait)
		}
	}
	form, err := readForm(w, r) // 1. understand
	if err != nil {
		return nil, err
	}
	now := s.c.Now()
	claims, err := s.assertions.Verify(r.Context(), form.Get("client_assertion"), now) // 2. authenticate
	d.Client, d.AssertionID, d.KeyID = claims.Issuer, claims.ID, claims.KeyID
	var refused token.Refused
	switch {
	case errors.As(err, &refused):
		return nil, invalidClient(string(refused))
	case errors.Is(err, auth.ErrUnavailable):
		return nil, busy(http.StatusServiceUnavailable, "replay record", retryAfter)
	case err != nil:
		return nil, err
	case form.Has("client_id") && form.Get("client_id") != claims.Issuer:
		return nil, invalidClient("client_id")
	}
	if s.c.Limit != nil {
		if wait := s.c.Limit(r, claims.Issuer); wait > 0 {
			return nil, busy(http.StatusTooManyRequests, "limit", wait)
		}
	}
	granted, err := s.grant(claims.Issuer, form.Get("scope")) // 3. permit
	if err != nil {
		return nil, err
	}
	compact, id, err := s.issue(claims.Issuer, granted, now) // 4. give
	if err != nil {
		return nil, err
	}
	d.Granted, d.TokenID, d.Scope = true, id, granted
	return &success{AccessToken: compact, TokenType: "bearer", ExpiresIn: int64(s.c.TTL / time.Second), Scope: granted}, nil
}

// grant returns the scopes of a request that the client may have.
func (s *Server) grant(clientID, asked string) (string, error) {
	if asked == "" {
		return "", invalidScope("The parameter scope is required.")
	}
	scopes, others, err := scope.ParseList(asked)
	if err != nil {
		return "", invalidScope("There are too many scopes.")
	}
	for _, other := range others {
		if !errors.Is(other, scope.ErrOther) {
			return "", invalidScope("A system scope is malformed, or has a search parameter that cannot be used in a scope.")
		}
	}
	c, ok := s.client(clientID)
	if !ok { // it was disabled a moment ago
		return "", invalidClient(string(token.ErrClient))
	}
	grant, err := scope.NewGrant(c.grant.Restrict(scopes))
	switch {
	case err != nil:
		return "", invalidScope("The scopes have too many queries; ask for fewer at a time.")
	case grant.Empty():
		return "", invalidScope("The client may have none of these scopes.")
	case len(grant.String()) > maxScope:
		return "", invalidScope("The scopes are too long for a token; ask for fewer at a time.")
	}
	return grant.String(), nil
}

// readForm reads the body of a request, and nothing of its address.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" || r.Header.Get("Content-Encoding") != "" {
		return nil, invalidRequest("The body must be a form: application/x-www-form-urlencoded, not compressed.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		p := invalidRequest("The body is too large.")
		p.status = http.StatusRequestEntityTooLarge
		return nil, p
	case err != nil:
		return nil, invalidRequest("The body did not arrive whole.")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalidRequest("The form is malformed.")
	}
	for _, values := range form {
		if len(values) > 1 {
			return nil, invalidRequest("A parameter is repeated.")
		}
	}
	hasAssertion := form.Get("client_assertion") != ""
	switch grant := form.Get("grant_type"); {
	case grant == "":
		return nil, invalidRequest("The parameter grant_type is required.")
	case grant != "client_credentials":
		return nil, &problem{status: http.StatusBadRequest, code: "unsupported_grant_type", text: "The only grant_type is client_credentials.", reason: "grant type"}
	case r.Header.Get("Authorization") != "" && hasAssertion:
		return nil, invalidRequest("The client authenticates in two ways.")
	case r.Header.Get("Authorization") != "":
		p := invalidClient("authorization header")
		p.scheme = "Basic" // what a client that sends a password expects; Bearer would mean a token
		return nil, p
	case form.Get("client_assertion_type") != assertionType && (hasAssertion || form.Has("client_assertion_type")):
		return nil, invalidRequest(fmt.Sprintf("The parameter client_assertion_type must be %s.", assertionType))
	case !hasAssertion:
		return nil, invalidClient("no assertion")
	}
	return form, nil
}
