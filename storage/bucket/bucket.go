package bucket

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gocloud.dev/blob"

	"spillway/storage"
)

const (
	// partSize is the memory in bytes that a writer fills before it sends, and
	// the least that S3 takes as a part. A writer has at most two: one being
	// filled, one on its way.
	partSize = 5 << 20

	defaultOutage = time.Minute
	// longestSilence is how long a request may move no byte in either direction.
	longestSilence = 30 * time.Second
	// slowFactor times longestSilence is allowed where a service works without
	// a sign of life: it copies, or puts parts together.
	slowFactor = 4
	// farewell is how long tidying up may take after its context has ended.
	farewell = 5 * time.Second
	// grace is for an answer that is on its way when a context ends.
	grace = time.Second

	// mediaType of what is not meant to be fetched by a link.
	mediaType = "application/octet-stream"
	// tagName is the metadata entry that says which writer made an object, so
	// that one whose answer was lost knows its own.
	tagName = "writer"
)

var (
	_ storage.Store  = (*Store)(nil)
	_ storage.Linker = (*Store)(nil)
)

// Options of a Store.
type Options struct {
	// URL names the service, the bucket and the prefix; see the package comment.
	URL string
	// Logger gets a warning when the service has not answered for some
	// seconds. Nil means slog.Default.
	Logger *slog.Logger
	// MaxOutage is how long a service that does not answer, or asks to be
	// left alone, is waited for within one operation. Zero means a minute.
	MaxOutage time.Duration
}

// A Store keeps objects in a bucket, below a prefix. Open makes one.
type Store struct {
	url     string // as given; Check opens it again
	name    string // scheme://bucket, for errors
	prefix  string // before every key; empty or ends in a slash
	bucket  *blob.Bucket
	service service
	log     *slog.Logger
	outage  time.Duration
	silence time.Duration
	pause   time.Duration // before the second try; it grows
	buffers sync.Pool     // of *[]byte, of at most partSize

	// blind is set once the service has refused a write on condition that the
	// key is free; from then on the key is looked at before.
	blind atomic.Bool
	// noCopy is set once the service has refused to copy a range.
	noCopy atomic.Bool
	// full is when a write was last refused for want of space, in nanoseconds
	// since 1970.
	full atomic.Int64

	mu    sync.Mutex // guards the following
	asked time.Time  // when Ready last asked the service
	ready error      // what it found
}

// A service is what the three differ in. Keys are whole, with the prefix.
// Methods that ask the service once are marked so; the others retry.
type service interface {
	// put stores an object in one request, over another if it may. It is asked
	// once.
	put(ctx context.Context, key string, content *payload, m meta, over bool, p *progress) error
	// begin starts an object that is sent in parts. Nothing is visible before
	// its commit.
	begin(ctx context.Context, key string, m meta) (upload, error)
	// traits are the rules for parts.
	traits() traits
	// concat composes whole objects if the service can do that at a stroke,
	// and reports whether it did.
	concat(ctx context.Context, key string, parts []storage.Part, m meta) (bool, error)
	// remove deletes at most pageSize objects. Missing ones are no error.
	remove(ctx context.Context, keys []string) error
	// sweep ends what unfinished writers left under a prefix, where the
	// service can list it.
	sweep(ctx context.Context, prefix string) error
	// link signs a URL for reading.
	link(ctx context.Context, key string, ttl time.Duration) (string, error)
	// credentials finds out early what is wrong with them.
	credentials(ctx context.Context) error
	// inspect looks for settings of the bucket that keep data for longer than
	// they should. It says nothing about what it may not see.
	inspect(ctx context.Context) (warnings []string)
	// advise says what to do about an answer, or nothing.
	advise(a answer, step string) string
	close() error
}

// An upload is an object sent in parts, numbered from 1 without gaps. Its
// methods retry. part and copy may run at once as far as traits.parallel allows.
type upload interface {
	part(ctx context.Context, n int, content *payload) error
	copy(ctx context.Context, n int, p storage.Part) error // p.Key with the prefix
	commit(ctx context.Context, over bool) error
	abort(ctx context.Context) error
}

// meta is what an object is stored with.
type meta struct {
	storage.Delivery
	tag       string
	overwrite bool // the object that has the key
}

// traits are a service's rules for the parts of an upload. All but the last
// part have at least minPart bytes; a range is copied by the service if it has
// minCopy to maxCopy bytes.
type traits struct {
	minPart, minCopy, maxCopy int64
	maxParts, parallel        int
}

// Open opens the bucket of a URL. It does not talk to the service; Check does.
func Open(ctx context.Context, o Options) (*Store, error) {
	u, err := parse(o.URL)
	if err != nil {
		return nil, err
	}
	s := &Store{
		url:    o.URL,
		name:   u.Scheme + "://" + u.Host,
		prefix: u.Query().Get("prefix"),
		log:    o.Logger,
		outage: o.MaxOutage,
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.outage <= 0 {
		s.outage = defaultOutage
	}
	s.silence = min(longestSilence, s.outage)
	s.pause = firstPause
	q := u.Query()
	q.Del("prefix")
	u.RawQuery = q.Encode()
	switch u.Scheme {
	case "s3":
		err = s.openS3(ctx, u)
	case "gs":
		err = s.openGCS(ctx, u)
	default:
		err = s.openAzure(ctx, u)
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", s.name, err)
	}
	return s, nil
}

// Close releases what the store holds. No other method may be running.
func (s *Store) Close() error {
	return errors.Join(s.bucket.Close(), s.service.close())
}

// Stat describes an object, or returns storage.ErrNotFound.
func (s *Store) Stat(ctx context.Context, key string) (storage.Object, error) {
	if !storage.ValidKey(key) {
		return storage.Object{}, storage.ErrNotFound
	}
	a, err := s.attributes(ctx, key)
	if err != nil {
		return storage.Object{}, err
	}
	return storage.Object{Key: key, Size: a.Size, Modified: a.ModTime}, nil
}

func (s *Store) attributes(ctx context.Context, key string) (a *blob.Attributes, err error) {
	err = s.try(ctx, "looking at an object", func(ctx context.Context, _ *progress) (err error) {
		a, err = s.bucket.Attributes(ctx, s.prefix+key)
		return err
	})
	return a, err
}

// List yields the objects below prefix in the order of their keys.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if !storage.ValidKey(prefix + "x") { // no key begins so
			if err := ctx.Err(); err != nil {
				yield(storage.Object{}, err)
			}
			return
		}
		for token := blob.FirstPageToken; len(token) > 0; {
			page, next, err := s.page(ctx, s.prefix+prefix, token)
			if err != nil {
				yield(storage.Object{}, err)
				return
			}
			for _, o := range page {
				key := o.Key[len(s.prefix):]
				if !storage.ValidKey(key) {
					continue // not ours
				}
				if !yield(storage.Object{Key: key, Size: o.Size, Modified: o.ModTime}, nil) {
					return
				}
			}
			token = next
		}
	}
}

// pageSize is how many objects are asked for at once, and how many keys S3
// deletes by one request.
const pageSize = 1000

func (s *Store) page(ctx context.Context, prefix string, token []byte) (page []*blob.ListObject, next []byte, err error) {
	err = s.try(ctx, "listing objects", func(ctx context.Context, _ *progress) (err error) {
		page, next, err = s.bucket.ListPage(ctx, token, pageSize, &blob.ListOptions{Prefix: prefix})
		return err
	})
	return page, next, err
}
