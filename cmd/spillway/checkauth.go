package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/auth"
	"spillway/auth/fetch"
	"spillway/auth/jwks"
	"spillway/auth/keypair"
	"spillway/cmd/spillway/internal/config"
)

// access says who may export, and whether that can be found out.
func (r *report) access(ctx context.Context, cfg *config.Config) {
	a := &cfg.Auth
	if !a.Enforces() {
		r.row("authorization", "none: whoever reaches the gateway may export everything")
		return
	}
	disabled := 0
	for _, c := range a.Everybody() {
		if c.Disabled {
			disabled++
		}
	}
	text := a.Mode + ", " + plural(int64(len(a.Everybody())), "client") + " known"
	if disabled > 0 {
		text += fmt.Sprintf(", %d of them disabled", disabled)
	}
	r.row("authorization", "%s", text)
	public := cfg.Server.PublicURL
	if public == nil {
		public = &url.URL{Scheme: "https", Host: cfg.Server.Listen, Path: cfg.Upstream.URL.Path}
	}
	// Only what answers from outside is tried out: neither a store nor our own
	// endpoint is needed for that.
	as, err := openAccess(cfg, accessNeeds{
		public: public, upstream: http.NotFoundHandler(), metrics: prometheus.NewRegistry(), log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		r.blockFor("authorization", err)
		return
	}
	switch a.Mode {
	case config.ModeJWT:
		r.tried("issuer's keys", "auth.jwt", as.ready(ctx))
	case config.ModeIntrospection:
		// A token that nobody has issued: the answer must be that it is none.
		probe := &http.Request{Method: http.MethodGet, URL: public, Header: http.Header{"Authorization": {"Bearer spillway-check"}}}
		_, err := as.Authenticate(probe.WithContext(ctx))
		if errors.Is(err, auth.ErrBadCredential) {
			err = nil
		} else if err == nil {
			err = errors.New("the endpoint calls a token active that nobody has issued")
		}
		r.tried("introspection", "auth.introspection", err)
	case config.ModeBuiltin:
		r.clientKeys(ctx, cfg)
	}
}

// tried reports something outside that was asked.
func (r *report) tried(name, key string, err error) {
	if err != nil {
		r.row(name, "cannot be had")
		r.blocked = append(r.blocked, key+": "+strings.TrimPrefix(err.Error(), auth.ErrUnavailable.Error()+": "))
		return
	}
	r.row(name, "answers")
}

// clientKeys asks for the keys of clients that publish them. A client whose keys
// are away is no reason why the others cannot work.
func (r *report) clientKeys(ctx context.Context, cfg *config.Config) {
	b := &cfg.Auth.Builtin
	secure, err := authorities("auth.builtin.ca_file", b.CAFile)
	if err != nil {
		return // openAccess has told
	}
	cache := jwks.New(jwks.Options{Client: fetch.New(fetch.Options{Private: b.PrivateJWKS, Plain: b.PlainJWKS, TLS: secure})})
	published, had := 0, 0
	for _, c := range b.Clients {
		if c.JWKSURL == "" || c.Disabled {
			continue
		}
		published++
		if err := cache.At(c.JWKSURL).Ready(ctx); err != nil {
			text := strings.TrimPrefix(err.Error(), auth.ErrUnavailable.Error()+": ")
			if errors.Is(err, fetch.ErrForbidden) {
				text += "; for addresses of private networks set auth.builtin.allow_private_jwks: true"
			}
			r.notes = append(r.notes, fmt.Sprintf("The keys of the client %s cannot be had: %s", c.ID, text))
			continue
		}
		had++
	}
	if published > 0 {
		r.row("clients' keys", "%d of %d sets can be had", had, published)
	}
	if len(b.Keys) == 0 {
		r.row("signing key", "one of each process; tokens end with it")
	} else {
		r.row("signing key", "%s, %s", b.Keys[0].ID(), b.Keys[0].Algorithm())
	}
}

// audit says where the record goes.
func (r *report) audit(cfg *config.Config) {
	a := &cfg.Audit
	if !a.On() {
		r.row("audit", "none")
		return
	}
	var sinks []string
	if a.File != "" {
		if err := auditFile(a.File); err != nil {
			r.block(config.KeyAuditFile, err)
			return
		}
		sinks = append(sinks, a.File)
	}
	if a.Stdout {
		sinks = append(sinks, "standard output")
	}
	failing := "what cannot be recorded is done all the same"
	if a.Deny {
		failing = "what cannot be recorded is refused"
	}
	r.row("audit", "%s; %s", strings.Join(sinks, " and "), failing)
}

// auditFile says whether the record can be written, without touching one that a
// running gateway holds.
func auditFile(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return errors.New("is no regular file")
	}
	return writable(filepath.Dir(path))
}

// credential tries out what we are to the upstream.
func (r *report) credential(ctx context.Context, cfg *config.Config) (*credential, error) {
	k, err := openCredential(cfg, slog.New(slog.DiscardHandler), nil, nil)
	if err != nil {
		return nil, err
	}
	if cfg.Upstream.Auth.Mode != config.ModeNone {
		r.row("credential", "%s", cfg.Upstream.Auth.Mode)
	}
	r.certificate("its certificate", k.certificate)
	if cfg.Upstream.Auth.Mode == config.ModePrivateKeyJWT {
		err := k.source.Authorize(ctx, http.Header{})
		r.tried("upstream's token", config.KeyUpstreamAuth, err)
	}
	return k, nil
}

// certificate tells when a certificate ends; nil: there is none.
func (r *report) certificate(row string, pair *keypair.Pair) {
	if pair == nil {
		return
	}
	ends := pair.Expires()
	r.row(row, "valid until %s", ends.Format(time.DateOnly))
	if time.Until(ends) < soon {
		r.notes = append(r.notes, fmt.Sprintf("The certificate ends on %s.", ends.Format(time.DateTime)))
	}
}
