// Package keypair holds a TLS certificate and its key, and reads them again
// when their files change, so that a certificate is renewed without a restart.
//
//	Open                 reads both files
//	Pair.ForServer       for tls.Config.GetCertificate
//	Pair.ForClient       for tls.Config.GetClientCertificate
//	Pair.Expires         for a metric
//	Authorities          a file of certificates → a pool
package keypair

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// every is the least time between two looks at the files.
const every = 10 * time.Second

// A Pair is a certificate with its key. It is safe for concurrent use.
type Pair struct {
	certFile, keyFile string
	now               func() time.Time
	logger            *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	state   [2]time.Time // when the files were last changed
	looked  time.Time
	failing bool
}

// Open reads a certificate chain and its key, in PEM. The key's file must be
// readable by its owner and group alone. now and logger may be nil: time.Now,
// and no log.
func Open(certFile, keyFile string, now func() time.Time, logger *slog.Logger) (*Pair, error) {
	if now == nil {
		now = time.Now
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	p := &Pair{certFile: certFile, keyFile: keyFile, now: now, logger: logger}
	if err := p.read(); err != nil {
		return nil, fmt.Errorf("keypair: %w", err)
	}
	return p, nil
}

// Expires returns when the certificate does.
func (p *Pair) Expires() time.Time { return p.current().Leaf.NotAfter }

// ForServer returns the certificate for a client that connects.
func (p *Pair) ForServer(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current(), nil }

// ForClient returns the certificate for a server that asks for one.
func (p *Pair) ForClient(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return p.current(), nil
}

// current returns the pair, read again if its files have changed. One that
// cannot be read leaves the last one in use: a renewal may be half done.
func (p *Pair) current() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now(); now.Sub(p.looked) >= every || now.Before(p.looked) {
		err := p.read()
		if failing := err != nil; failing != p.failing {
			p.failing = failing
			if failing {
				p.logger.Warn("a changed TLS certificate or key cannot be used; the last one is still in use", "error", err)
			} else {
				p.logger.Info("the TLS certificate and key can be used again")
			}
		}
	}
	return p.pair
}

func (p *Pair) read() error {
	p.looked = p.now()
	var state [2]time.Time
	for i, name := range []string{p.certFile, p.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return plainError(err)
		}
		if i == 1 && info.Mode().Perm()&0o007 != 0 {
			return errors.New("the key's file can be read or changed by everybody; take that right away (chmod o=)")
		}
		state[i] = info.ModTime()
	}
	if p.pair != nil && state == p.state {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return plainError(err)
	}
	if pair.Leaf == nil {
		return errors.New("the certificate is malformed")
	}
	p.pair, p.state = &pair, state
	return nil
}

// Authorities reads certificates in PEM that others are verified with.
func Authorities(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("keypair: %w", plainError(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errors.New("keypair: the file of authorities has no certificate in it")
	}
	return pool, nil
}

// plainError keeps the name of a file out of an error.
func plainError(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
