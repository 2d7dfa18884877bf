// Package storage keeps bytes under a key, visible only when they are whole.
//
//	Store    the contract
//	Writer   one object being written; nobody sees it before Commit
//	Linker   what a store can do besides whose objects have URLs of their own
//
// storage/disk keeps them on the local file system, storage/bucket in the
// object storage of a cloud; storage/storagetest is the contract as a test
// suite. The package knows neither jobs nor FHIR.
package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors of a Store. Test with errors.Is.
var (
	// ErrNotFound: no object has this key.
	ErrNotFound = errors.New("storage: no such object")
	// ErrExists: the key is taken. Objects are immutable.
	ErrExists = errors.New("storage: object exists")
	// ErrBadKey: the key is not of the form that ValidKey accepts.
	ErrBadKey = errors.New("storage: malformed key")
	// ErrFull: free space is below the watermark; try again later.
	ErrFull = errors.New("storage: not enough free space")
)

// An Object is what List and Stat tell of a key.
type Object struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // when it became visible
}

// A Store keeps immutable objects. All methods are safe for concurrent use.
// Keys are slash-separated names (see ValidKey). An object is visible whole or
// not at all, also after a crash or a power failure.
type Store interface {
	// Create begins an object. Nothing is visible before Commit, and nothing
	// stays after Abort. ErrBadKey, ErrExists (also possibly at Commit),
	// ErrFull if Ready would say so.
	Create(ctx context.Context, key string) (Writer, error)

	// Open returns length bytes of an object from offset; a negative length
	// means up to the end. ErrNotFound. A range that begins beyond the end
	// yields no bytes; one that ends beyond it yields what there is.
	Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)

	// Stat describes an object, or ErrNotFound.
	Stat(ctx context.Context, key string) (Object, error)

	// List yields the objects whose key begins with prefix, in key order.
	// It stops after the first error. Unfinished objects are not listed.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]

	// RemoveAll deletes every object whose key begins with prefix, which ends
	// in a slash, and what unfinished writers left under it. Open readers go
	// on. Removing what is not there is no error.
	RemoveAll(ctx context.Context, prefix string) error

	// Ready returns nil if new objects may be written, or ErrFull wrapped
	// with the figures.
	Ready(ctx context.Context) error
}

// A Part is one piece of a composed object: bytes of a stored object, or the
// literal Bytes where Key is empty.
type Part struct {
	Key            string
	Offset, Length int64
	Bytes          []byte
}

// Delivery says how an object is declared to whoever fetches it by its link.
type Delivery struct {
	ContentType     string // such as application/fhir+ndjson
	ContentEncoding string // such as gzip; empty: none
	Filename        string // suggested name of the download
}

// A Linker is a Store whose objects can be fetched by URL, without the gateway
// between. storage/bucket is one.
type Linker interface {
	// Compose makes an object of parts, in order, where it can on the side of
	// the service. Repeating it with the same key and parts is no error. The
	// object is visible whole or not at all.
	Compose(ctx context.Context, key string, parts []Part, d Delivery) error

	// Link returns a URL by which anybody can fetch the composed object until
	// ttl has passed, or ErrNotFound where the store is asked and has no such
	// object. d is what Compose was given.
	Link(ctx context.Context, key string, ttl time.Duration, d Delivery) (string, error)
}

// A Writer takes the bytes of one object. It is used by one goroutine.
type Writer interface {
	io.Writer
	// Commit makes the object visible under its key and durable. After an
	// error the key may be missing, but it never names partial bytes.
	Commit(ctx context.Context) error
	// Abort discards the object. After Commit, or a second time, it does nothing.
	Abort() error
}

// ValidKey reports whether key consists of 1 to 8 segments joined by '/', each
// of 1 to 128 characters of [A-Za-z0-9._-] and not beginning with a dot.
func ValidKey(key string) bool {
	segments, length := 1, 0
	for i := range len(key) {
		c := key[i]
		switch {
		case c == '/':
			if length == 0 {
				return false
			}
			segments, length = segments+1, 0
			continue
		case c == '.' && length == 0:
			return false
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
		if length++; length > 128 {
			return false
		}
	}
	return length > 0 && segments <= 8
}
