package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/auth/keypair"
	"spillway/cmd/spillway/internal/config"
)

// serverTLS returns how the public listener speaks TLS, and its certificate,
// which is read again when it is renewed. Both are nil where none is configured.
func serverTLS(c *config.Config, log *slog.Logger) (*tls.Config, *keypair.Pair, error) {
	s := &c.Server
	if s.CertFile == "" {
		return nil, nil, nil
	}
	pair, err := keypair.Open(s.CertFile, s.KeyFile, nil, log)
	if err != nil {
		return nil, nil, usageError("server.tls: %w", err)
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.ForServer, NextProtos: []string{"h2", "http/1.1"}}
	if s.MinVersion == "1.3" {
		secure.MinVersion = tls.VersionTLS13
	}
	switch {
	case s.ClientCAFile != "":
		if secure.ClientCAs, err = keypair.Authorities(s.ClientCAFile); err != nil {
			return nil, nil, usageError("%s: %w", config.KeyClientCA, err)
		}
		// Not every path needs one: what goes through has the upstream's own rules.
		secure.ClientAuth = tls.VerifyClientCertIfGiven
	case c.Auth.Mode == config.ModeMTLS:
		secure.ClientAuth = tls.RequestClientCert // all clients are known by a fingerprint
	}
	return secure, pair, nil
}

// upstreamTLS returns how the upstream is connected to: without our certificate,
// for what goes through for others, and with it. The pair is nil where there is
// none.
func upstreamTLS(c *config.Config, log *slog.Logger) (bare, ours *tls.Config, pair *keypair.Pair, err error) {
	t := c.Upstream.TLS
	bare = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		if bare.RootCAs, err = keypair.Authorities(t.CAFile); err != nil {
			return nil, nil, nil, usageError("%s.ca_file: %w", config.KeyUpstreamTLS, err)
		}
	}
	if t.CertFile == "" {
		return bare, bare, nil, nil
	}
	if pair, err = keypair.Open(t.CertFile, t.KeyFile, nil, log); err != nil {
		return nil, nil, nil, usageError("%s: %w", config.KeyUpstreamTLS, err)
	}
	ours = bare.Clone()
	ours.GetClientCertificate = pair.ForClient
	return bare, ours, pair, nil
}

// authorities returns how a server is connected to whose authorities are in a
// file; "" stands for those of the system.
func authorities(key, file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	pool, err := keypair.Authorities(file)
	if err != nil {
		return nil, usageError("%s: %w", key, err)
	}
	return &tls.Config{RootCAs: pool}, nil
}

// registerExpiry keeps a metric of when a certificate ends.
func registerExpiry(metrics prometheus.Registerer, name string, pair *keypair.Pair) error {
	if metrics == nil || pair == nil {
		return nil
	}
	err := metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_certificate_expiry_timestamp_seconds", Help: "When a TLS certificate of ours ends.",
		ConstLabels: prometheus.Labels{"certificate": name},
	}, func() float64 { return float64(pair.Expires().Unix()) }))
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// soon is how long before its end a certificate is worth a warning.
const soon = 14 * 24 * time.Hour
