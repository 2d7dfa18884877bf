package bucket

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	gcs "cloud.google.com/go/storage"
	"github.com/googleapis/gax-go/v2"
	"gocloud.dev/blob/gcsblob"
	"golang.org/x/sync/errgroup"
	"google.golang.org/api/option"

	"spillway/storage"
)

// A gcsService speaks to Google Cloud Storage over JSON and HTTP.
type gcsService struct {
	s      *Store
	client *gcs.Client
	bucket *gcs.BucketHandle
	// signer and key sign links if the URL names them; else the client's
	// credentials do.
	signer string
	key    []byte
}

func (s *Store) openGCS(ctx context.Context, u *url.URL) error {
	q := u.Query()
	b := &gcsService{s: s, signer: q.Get("access_id")}
	var options []option.ClientOption
	if a := q.Get("anonymous"); a != "" {
		anonymous, err := strconv.ParseBool(a)
		if err != nil {
			return errors.New("the parameter anonymous must be true or false")
		}
		if anonymous {
			options = append(options, option.WithoutAuthentication())
		}
	}
	if d := q.Get("universe_domain"); d != "" {
		options = append(options, option.WithUniverseDomain(d))
	}
	if path := q.Get("private_key_path"); path != "" {
		key, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("private_key_path: %w", err)
		}
		b.key = key
	}
	client, err := gcs.NewClient(ctx, options...)
	if err != nil {
		return fmt.Errorf("no Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, "+
			"or run where there is one (%w)", bare(err))
	}
	client.SetRetry(gcs.WithPolicy(gcs.RetryNever)) // the store tries again itself
	b.client, b.bucket = client, client.Bucket(u.Host)
	s.service = b
	s.bucket, err = gcsblob.OpenBucket(ctx, nil, u.Host, &gcsblob.Options{Client: client})
	return err
}

func (b *gcsService) close() error { return b.client.Close() }

// traits: there is no copying of ranges, and parts are sent in order.
func (b *gcsService) traits() traits {
	return traits{minPart: partSize, minCopy: math.MaxInt64, maxCopy: math.MaxInt64, maxParts: math.MaxInt, parallel: 1}
}

func (b *gcsService) writer(ctx context.Context, key string, m meta, over bool) *gcs.Writer {
	o := b.bucket.Object(key)
	if !over {
		o = o.If(gcs.Conditions{DoesNotExist: true})
	}
	// A chunk of a resumable upload is sent again by the client, which alone
	// knows how far it came.
	o = o.Retryer(gcs.WithPolicy(gcs.RetryAlways), gcs.WithBackoff(gax.Backoff{Initial: firstPause, Max: longestPause, Multiplier: pauseGrows}))
	w := o.NewWriter(ctx)
	w.ContentType = m.ContentType
	w.ContentEncoding = m.ContentEncoding
	if d := disposition(m.Filename); d != nil {
		w.ContentDisposition = *d
	}
	w.Metadata = map[string]string{tagName: m.tag}
	w.ForceEmptyContentType = m.ContentType == ""
	return w
}

func (b *gcsService) put(ctx context.Context, key string, content *payload, m meta, over bool, p *progress) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the upload if it is not complete
	w := b.writer(ctx, key, m, over)
	w.ChunkSize = 0 // one request
	const step = 256 << 10
	content.sends.Add(1)
	for rest := content.bytes; len(rest) > 0; {
		n := min(step, len(rest))
		if _, err := w.Write(rest[:n]); err != nil {
			return err
		}
		p.moved()
		rest = rest[n:]
	}
	return w.Close()
}

func (b *gcsService) begin(ctx context.Context, key string, m meta) (upload, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := b.writer(ctx, key, m, m.overwrite)
	w.ChunkSize = partSize
	w.ChunkRetryDeadline = b.s.outage
	w.ChunkTransferTimeout = slowFactor * b.s.silence
	return &gcsUpload{b: b, w: w, ctx: ctx, cancel: cancel}, nil
}

// A gcsUpload is a resumable upload. Its session is invisible, and forgotten
// by the service if it is not used for a week.
type gcsUpload struct {
	b      *gcsService
	w      *gcs.Writer
	ctx    context.Context // of w
	cancel context.CancelFunc
}

// part hands bytes to the client. They come in order, as traits demand; the
// client retries.
func (u *gcsUpload) part(ctx context.Context, _ int, content *payload) error {
	content.sends.Add(1)
	return u.within(ctx, "writing a part of an object", func() error {
		_, err := u.w.Write(content.bytes)
		return err
	})
}

func (u *gcsUpload) copy(context.Context, int, storage.Part) error {
	return errors.ErrUnsupported // the plan has no such piece
}

func (u *gcsUpload) commit(ctx context.Context, _ bool) error {
	return u.within(ctx, "completing an upload", u.w.Close)
}

// within ends the upload when ctx ends.
func (u *gcsUpload) within(ctx context.Context, what string, do func() error) error {
	stop := context.AfterFunc(ctx, u.cancel)
	defer stop()
	return u.b.s.failed(ctx, u.ctx, what, do())
}

func (u *gcsUpload) abort(context.Context) error {
	u.cancel()
	return nil
}

// A gcs compose request takes so many objects.
const composeMost = 32

// concat composes whole objects. More than one request takes are put together
// in an object beside, which is removed at the end.
func (b *gcsService) concat(ctx context.Context, key string, parts []storage.Part, m meta) (bool, error) {
	if len(parts) == 0 {
		return false, nil
	}
	for _, p := range parts {
		if p.Key == "" || p.Offset != 0 {
			return false, nil
		}
	}
	whole, err := b.whole(ctx, parts)
	if !whole || err != nil {
		return false, b.s.vanished(err)
	}
	sources := make([]string, len(parts))
	for i, p := range parts {
		sources[i] = p.Key
	}
	if len(sources) > composeMost {
		beside := key + ".composing"
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
			defer cancel()
			_ = b.removeOne(ctx, beside) // RemoveAll takes it otherwise
		}()
		for len(sources) > composeMost {
			if err := b.composeOnce(ctx, beside, sources[:composeMost], meta{}); err != nil {
				return false, err
			}
			sources = append([]string{beside}, sources[composeMost:]...)
		}
	}
	err = b.composeOnce(ctx, key, sources, m)
	return err == nil, err
}

// whole reports whether every part is all of its object.
func (b *gcsService) whole(ctx context.Context, parts []storage.Part) (bool, error) {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(removers)
	ranges := make([]bool, len(parts))
	for i, p := range parts {
		group.Go(func() error {
			a, err := b.s.attributes(gctx, p.Key[len(b.s.prefix):])
			if err == nil {
				ranges[i] = a.Size != p.Length
			}
			return err
		})
	}
	err := group.Wait()
	for _, isRange := range ranges {
		if isRange {
			return false, err
		}
	}
	return err == nil, err
}

func (b *gcsService) composeOnce(ctx context.Context, key string, sources []string, m meta) error {
	handles := make([]*gcs.ObjectHandle, len(sources))
	for i, source := range sources {
		handles[i] = b.bucket.Object(source)
	}
	return b.s.try(ctx, "composing an object", func(ctx context.Context, p *progress) error {
		p.slow()
		c := b.bucket.Object(key).ComposerFrom(handles...)
		c.ContentType, c.ContentEncoding = m.ContentType, m.ContentEncoding
		if d := disposition(m.Filename); d != nil {
			c.ContentDisposition = *d
		}
		c.Metadata = map[string]string{tagName: m.tag}
		_, err := c.Run(ctx)
		return err
	})
}

func (b *gcsService) remove(ctx context.Context, keys []string) error {
	return removeEach(ctx, keys, b.removeOne)
}

func (b *gcsService) removeOne(ctx context.Context, key string) error {
	return b.s.try(ctx, "removing an object", func(ctx context.Context, _ *progress) error {
		return b.bucket.Object(key).Delete(ctx)
	})
}

// sweep has nothing to do: a session of an upload cannot be listed.
func (b *gcsService) sweep(context.Context, string) error { return nil }

func (b *gcsService) link(_ context.Context, key string, ttl time.Duration) (string, error) {
	o := &gcs.SignedURLOptions{
		GoogleAccessID: b.signer, PrivateKey: b.key,
		Method: http.MethodGet, Scheme: gcs.SigningSchemeV4, Expires: time.Now().Add(ttl),
		Insecure: os.Getenv("STORAGE_EMULATOR_HOST") != "",
	}
	link, err := b.bucket.SignedURL(key, o)
	if err != nil {
		return "", &failure{name: b.s.name, what: "signing a link", kind: permanent, answer: answerOf(err)}
	}
	return link, nil
}
