package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/auth/audit"
	"spillway/auth/fetch"
	"spillway/auth/keypair"
	"spillway/auth/tokensource"
	"spillway/cmd/spillway/internal/config"
	"spillway/upstream"
)

// A credential is ours for the upstream. All that is sent with it shares one
// source, so that a token is fetched once for everybody.
type credential struct {
	source      tokensource.Source // nil: none, or a certificate alone
	bare, ours  *tls.Config        // without our certificate, and with it
	certificate *keypair.Pair      // nil: none
	keys        http.Handler       // publishes the keys by which we are known; nil: there are none
	wrap        func(http.RoundTripper) (http.RoundTripper, error)
}

// openCredential reads what the configuration names. It asks nobody yet.
// metrics may be nil, and so may record.
func openCredential(c *config.Config, log *slog.Logger, metrics prometheus.Registerer, record *recorder) (*credential, error) {
	k := &credential{}
	var err error
	if k.bare, k.ours, k.certificate, err = upstreamTLS(c, log); err != nil {
		return nil, err
	}
	if err := registerExpiry(metrics, "upstream", k.certificate); err != nil {
		return nil, err
	}
	a := &c.Upstream.Auth
	switch a.Mode {
	case config.ModeHeader:
		k.source, err = tokensource.Header(a.HeaderName, a.HeaderValue)
	case config.ModeBasic:
		k.source = tokensource.Basic(a.User, a.Password)
	case config.ModePrivateKeyJWT:
		k.source, err = clientCredentials(c, k.ours)
		k.keys = tokensource.KeysHandler(a.Key)
	}
	if err != nil {
		return nil, usageError("%s: %w", config.KeyUpstreamAuth, err)
	}
	if k.source == nil {
		return k, nil
	}
	watched := &watchedSource{Source: k.source, log: log, record: record, requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_upstream_credential_total", Help: "Requests that were given our credential for the upstream, by result: given, none (it could not be had), refused (by the upstream).",
	}, []string{"result"})}
	if metrics != nil {
		if err := metrics.Register(watched.requests); err != nil {
			return nil, err
		}
	}
	k.wrap = func(next http.RoundTripper) (http.RoundTripper, error) {
		return tokensource.Transport(watched, c.Upstream.URL, a.AllowPlainHTTP, next)
	}
	return k, nil
}

// clientCredentials returns a source of access tokens of the upstream's own
// authorisation server.
func clientCredentials(c *config.Config, ours *tls.Config) (tokensource.Source, error) {
	a := &c.Upstream.Auth
	secure, err := authorities(config.KeyUpstreamAuth+".private_key_jwt.ca_file", a.CAFile)
	if err != nil {
		return nil, err
	}
	if secure == nil {
		secure = ours.Clone()
		secure.ServerName = "" // that is the upstream's
	}
	source := tokensource.ClientCredentialsConfig{
		TokenURL: a.TokenURL, ClientID: a.ClientID, Key: a.Key, Scope: a.Scope, Audience: a.Audience, KeySetURL: a.KeySetURL,
		Client: fetch.New(fetch.Options{Private: true, Plain: plainSomewhere(a.TokenURL, c.Upstream.URL.String()), TLS: secure}),
	}
	if a.TokenURL == "" {
		source.FHIRBase = c.Upstream.URL.String()
	}
	return tokensource.NewClientCredentials(source)
}

// A watchedSource tells the log, the metrics and the audit when our credential
// does not work.
type watchedSource struct {
	tokensource.Source
	log      *slog.Logger
	record   *recorder
	requests *prometheus.CounterVec

	mu   sync.Mutex
	said map[string]time.Time // when a problem was told last
}

// Authorize implements tokensource.Source.
func (s *watchedSource) Authorize(ctx context.Context, h http.Header) error {
	err := s.Source.Authorize(ctx, h)
	switch {
	case err == nil:
		s.requests.WithLabelValues("given").Inc()
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	}
	s.requests.WithLabelValues("none").Inc()
	s.tell(ctx, "credential", "our credential for the upstream cannot be had", err)
	return &upstream.CredentialError{Err: err}
}

// Refused implements tokensource.Source.
func (s *watchedSource) Refused(h http.Header) bool {
	s.requests.WithLabelValues("refused").Inc()
	s.tell(context.Background(), "upstream refused", "the upstream refuses our credential", nil)
	return s.Source.Refused(h)
}

// tellEvery is how often one problem is told.
const tellEvery = time.Minute

func (s *watchedSource) tell(ctx context.Context, reason, text string, err error) {
	s.mu.Lock()
	quiet := time.Since(s.said[reason]) < tellEvery
	if !quiet {
		if s.said == nil {
			s.said = make(map[string]time.Time)
		}
		s.said[reason] = time.Now()
	}
	s.mu.Unlock()
	if quiet {
		return
	}
	attrs := []any{"credential", s.Source}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	s.log.WarnContext(ctx, text, attrs...)
	s.record.note(ctx, audit.Event{Kind: audit.KindAlert, Outcome: audit.OutcomeFailed, Reason: reason})
}
