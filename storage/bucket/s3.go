package bucket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"

	"spillway/storage"
)

// connections to one address that are kept open between requests.
const connections = 64

// An s3Service speaks to S3 and what is compatible with it.
type s3Service struct {
	s      *Store
	client *s3.Client
	name   string // of the bucket
	sse    types.ServerSideEncryption
	kms    *string
	// transport is nil if the environment has another client.
	transport *http.Transport
	// unsigned has the requests with a large body signed without it. TLS
	// protects it then; without TLS the signature does.
	unsigned []func(*s3.Options)
}

func (s *Store) openS3(ctx context.Context, u *url.URL) error {
	var opener s3blob.URLOpener
	opened, err := opener.OpenBucketURL(ctx, u)
	if err != nil {
		return err
	}
	var client *s3.Client
	if !opened.As(&client) {
		return errors.New("the S3 driver has no client")
	}
	q := u.Query()
	o := client.Options()
	if o.Region == "" {
		return errors.New("no region: add region=… to the URL (us-east-1 does for most services that are not AWS), or set AWS_REGION")
	}
	o.Retryer = aws.NopRetryer{} // the store tries again itself
	o.ContinueHeaderThresholdBytes = -1
	o.DisableLogOutputChecksumValidationSkipped = true
	// Checksums beside the signature or TLS cost a pass over the bytes, and
	// many compatible services do not know them.
	if q.Get("request_checksum_calculation") == "" {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	}
	if q.Get("response_checksum_validation") == "" {
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	}
	b := &s3Service{s: s, name: u.Host, sse: opener.Options.EncryptionType}
	if c, ok := o.HTTPClient.(*awshttp.BuildableClient); ok {
		b.transport = c.GetTransport()
		b.transport.MaxIdleConnsPerHost = connections
		o.HTTPClient = &http.Client{Transport: b.transport, CheckRedirect: noRedirect}
	}
	b.client = s3.New(o)
	if opener.Options.KMSEncryptionID != "" {
		b.kms = &opener.Options.KMSEncryptionID
	}
	if !strings.HasPrefix(q.Get("endpoint"), "http://") && !strings.HasPrefix(aws.ToString(o.BaseEndpoint), "http://") && !o.EndpointOptions.DisableHTTPS {
		b.unsigned = []func(*s3.Options){s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)}
	}
	s.service = b
	s.bucket, err = s3blob.OpenBucket(ctx, b.client, u.Host, &opener.Options)
	return err
}

// noRedirect: a signature is for one host, and the answer says more than where
// it leads.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (b *s3Service) close() error {
	if b.transport != nil {
		b.transport.CloseIdleConnections()
	}
	return nil
}

func (b *s3Service) traits() traits {
	const maxCopy = 512 << 20 // of 5 GiB that are allowed: several at once are faster, and none takes long
	return traits{minPart: partSize, minCopy: partSize, maxCopy: maxCopy, maxParts: 10_000, parallel: 4}
}

// unlessTaken is the condition of a write.
func unlessTaken(over bool) *string {
	if over {
		return nil
	}
	return aws.String("*")
}

// some is nil for an empty string.
func some(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (b *s3Service) put(ctx context.Context, key string, content *payload, m meta, over bool, p *progress) error {
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.name, Key: &key, Body: content.body(p), ContentLength: aws.Int64(int64(len(content.bytes))),
		ContentType: some(m.ContentType), ContentEncoding: some(m.ContentEncoding), ContentDisposition: disposition(m.Filename),
		Metadata: map[string]string{tagName: m.tag}, IfNoneMatch: unlessTaken(over),
		ServerSideEncryption: b.sse, SSEKMSKeyId: b.kms,
	}, b.unsigned...)
	return err
}

func (b *s3Service) begin(ctx context.Context, key string, m meta) (upload, error) {
	u := &s3Upload{b: b, key: key, parts: map[int]string{}}
	// Nobody can end an upload whose id did not arrive.
	err := b.s.tryToEnd(ctx, "beginning an upload", func(ctx context.Context, _ *progress) error {
		out, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
			Bucket: &b.name, Key: &key,
			ContentType: some(m.ContentType), ContentEncoding: some(m.ContentEncoding), ContentDisposition: disposition(m.Filename),
			Metadata: map[string]string{tagName: m.tag}, ServerSideEncryption: b.sse, SSEKMSKeyId: b.kms,
		})
		if err == nil {
			u.id = out.UploadId
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// An s3Upload is a multipart upload.
type s3Upload struct {
	b   *s3Service
	key string
	id  *string

	mu    sync.Mutex
	parts map[int]string // their ETags, by number
	// disturbed is set when a part has not arrived.
	disturbed atomic.Bool
}

func (u *s3Upload) part(ctx context.Context, n int, content *payload) error {
	return u.send(ctx, "writing a part of an object", func(ctx context.Context, p *progress) error {
		out, err := u.b.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &u.b.name, Key: &u.key, UploadId: u.id, PartNumber: aws.Int32(int32(n)),
			Body: content.body(p), ContentLength: aws.Int64(int64(len(content.bytes))),
		}, u.b.unsigned...)
		if err == nil {
			u.done(n, out.ETag)
		}
		return err
	})
}

func (u *s3Upload) copy(ctx context.Context, n int, part storage.Part) error {
	source := (&url.URL{Path: u.b.name + "/" + part.Key}).EscapedPath()
	return u.send(ctx, "copying a part of an object", func(ctx context.Context, p *progress) error {
		p.slow()
		out, err := u.b.client.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
			Bucket: &u.b.name, Key: &u.key, UploadId: u.id, PartNumber: aws.Int32(int32(n)),
			CopySource: &source, CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", part.Offset, part.Offset+part.Length-1)),
		})
		if err == nil {
			u.done(n, out.CopyPartResult.ETag)
		}
		return err
	})
}

func (u *s3Upload) send(ctx context.Context, what string, attempt func(context.Context, *progress) error) error {
	err := u.b.s.tryToEnd(ctx, what, attempt)
	if err != nil {
		u.disturbed.Store(true)
	}
	return err
}

func (u *s3Upload) done(n int, etag *string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts[n] = aws.ToString(etag)
}

func (u *s3Upload) commit(ctx context.Context, over bool) error {
	parts := make([]types.CompletedPart, len(u.parts))
	for i := range parts {
		parts[i] = types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: aws.String(u.parts[i+1])}
	}
	return u.b.s.tryToEnd(ctx, "completing an upload", func(ctx context.Context, p *progress) error {
		p.slow()
		_, err := u.b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &u.b.name, Key: &u.key, UploadId: u.id, IfNoneMatch: unlessTaken(over),
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
		return err
	})
}

// abort is repeated after a request has failed: the service may still work on
// its part, and then keeps the part.
func (u *s3Upload) abort(ctx context.Context) error {
	const first, grows, most = 50 * time.Millisecond, 4, time.Second
	for pause := first; ; pause *= grows {
		err := u.b.abort(ctx, u.key, u.id)
		if err != nil || !u.disturbed.Load() || pause > most {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func (b *s3Service) abort(ctx context.Context, key string, id *string) error {
	err := b.s.tryFor(ctx, farewell, "aborting an upload", func(ctx context.Context, _ *progress) error {
		_, err := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: &key, UploadId: id})
		return err
	})
	if errors.Is(err, storage.ErrNotFound) { // it is gone
		return nil
	}
	return err
}

// concat leaves everything to multipart copies.
func (b *s3Service) concat(context.Context, string, []storage.Part, meta) (bool, error) {
	return false, nil
}

func (b *s3Service) remove(ctx context.Context, keys []string) error {
	objects := make([]types.ObjectIdentifier, len(keys))
	for i, key := range keys {
		objects[i].Key = aws.String(key)
	}
	err := b.s.try(ctx, "removing objects", func(ctx context.Context, p *progress) error {
		p.slow()
		out, err := b.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
			Bucket: &b.name, Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)},
		})
		if err != nil {
			return err
		}
		for _, e := range out.Errors {
			if code := aws.ToString(e.Code); code != "NoSuchKey" {
				return &smithy.GenericAPIError{Code: code, Message: aws.ToString(e.Message)}
			}
		}
		return nil
	})
	if f, ok := errors.AsType[*failure](err); ok && (unsupported(err) || f.answer.code == "MissingContentMD5") {
		// The service knows no batches, or not their checksum.
		return removeEach(ctx, keys, b.removeOne)
	}
	return err
}

func (b *s3Service) removeOne(ctx context.Context, key string) error {
	return b.s.try(ctx, "removing an object", func(ctx context.Context, _ *progress) error {
		_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key})
		return err
	})
}

// sweep aborts the multipart uploads under a prefix. Who may not list them, or
// asks a service that does not, leaves them to the bucket's lifecycle rule.
func (b *s3Service) sweep(ctx context.Context, prefix string) error {
	in := &s3.ListMultipartUploadsInput{Bucket: &b.name, Prefix: &prefix}
	for {
		var out *s3.ListMultipartUploadsOutput
		err := b.s.try(ctx, "listing uploads", func(ctx context.Context, _ *progress) (err error) {
			out, err = b.client.ListMultipartUploads(ctx, in)
			return err
		})
		switch f, ok := errors.AsType[*failure](err); {
		case ok && f.kind == permanent, errors.Is(err, storage.ErrNotFound):
			b.s.log.DebugContext(ctx, "uploads that were not completed cannot be listed", "error", err)
			return nil
		case err != nil:
			return err
		}
		for _, u := range out.Uploads {
			if !strings.HasPrefix(aws.ToString(u.Key), prefix) {
				continue // not ours
			}
			if err := b.abort(ctx, aws.ToString(u.Key), u.UploadId); err != nil {
				return err
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

func (b *s3Service) link(ctx context.Context, key string, ttl time.Duration) (string, error) {
	return b.s.bucket.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: ttl, Method: http.MethodGet})
}
