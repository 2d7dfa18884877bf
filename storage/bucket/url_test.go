package bucket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	for _, good := range []string{
		"s3://name", "s3://name?region=eu-central-1", "s3://name?region=x&endpoint=https://minio.example.org:9000&use_path_style=true&prefix=a/b/",
		"s3://name/?region=x", "gs://name?prefix=exports/", "azblob://name?storage_account=acct", "azblob://c?localemu=true&protocol=http&domain=127.0.0.1:10000",
	} {
		if err := ParseURL(good); err != nil {
			t.Errorf("ParseURL(%q) = %v", good, err)
		}
	}
	for bad, words := range map[string]string{
		"":                                  "unknown scheme",
		"name":                              "unknown scheme",
		"http://name":                       "s3://, gs:// and azblob://",
		"file:///tmp":                       "unknown scheme",
		"mem://":                            "unknown scheme",
		"s3://":                             "names no bucket",
		"s3:///folder":                      "names no bucket",
		"s3://name/folder":                  "?prefix=folder/",
		"s3://key:secret@name":              "by the environment",
		"s3://name?regoin=x":                `unknown parameter "regoin"`,
		"s3://name?region=a&region=b":       "twice",
		"s3://name?prefix=folder":           "end in a slash",
		"s3://name?prefix=/folder/":         "end in a slash",
		"s3://name?prefix=../":              "end in a slash",
		"s3://name?endpoint=localhost:9000": "such as https://",
		"s3://name?endpoint=ftp://host":     "such as https://",
		"s3://name?region=%zz":              "malformed",
		"s3://na me":                        "not a URL",
		"gs://name?region=x":                `unknown parameter "region"`,
		"gs://name?grpc=true":               `unknown parameter "grpc"`,
		"azblob://name?endpoint=http://x":   `unknown parameter "endpoint"`,
	} {
		err := ParseURL(bad)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("ParseURL(%q) = %v, want %q in it", bad, err, words)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q tells a password", err)
		}
		if _, err := Open(t.Context(), Options{URL: bad}); err == nil {
			t.Errorf("Open(%q) succeeded", bad)
		}
	}
}

func TestKinds(t *testing.T) {
	tests := map[kind][]answer{
		transient: {
			{status: 500}, {status: 503, code: "SlowDown"}, {status: 429}, {status: 408}, {status: 400, code: "RequestTimeout"},
			{code: "InternalError"}, {status: 409, code: "ConditionalRequestConflict"}, {status: 503, code: "ServerBusy"},
			{status: 403, code: "rateLimitExceeded"}, {err: net.ErrClosed}, {err: errors.New("EOF")},
		},
		permanent: {
			{status: 403, code: "AccessDenied"}, {status: 404, code: "NoSuchBucket"}, {status: 400}, {status: 501, code: "NotImplemented"},
			{status: 301, code: "PermanentRedirect"}, {code: "AccessDenied"}, {status: 404, code: "XAdminUserNotFound"},
		},
		missing: {{status: 404}, {status: 404, code: "NoSuchKey"}, {status: 404, code: "BlobNotFound"}, {status: 404, code: "NotFound"}, {status: 404, code: "notFound"}},
		taken:   {{status: 412}, {status: 412, code: "PreconditionFailed"}, {status: 409, code: "BlobAlreadyExists"}},
		full:    {{status: 507}, {status: 403, code: "QuotaExceeded"}, {code: "XMinioStorageFull"}},
		beyond:  {{status: 416}, {status: 416, code: "InvalidRange"}},
	}
	for want, answers := range tests {
		for _, a := range answers {
			if got := a.kind(); got != want {
				t.Errorf("%+v is of kind %d, want %d", a, got, want)
			}
		}
	}
}

// An error of the network tells no address with a query, and no key.
func TestBare(t *testing.T) {
	inner := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	err := fmt.Errorf("operation error S3: %w", &url.Error{Op: "Get", URL: "https://host/key?X-Amz-Signature=1", Err: inner})
	f := &failure{name: "s3://b", what: "reading an object", answer: answerOf(err), lasted: 61 * time.Second}
	if got, want := f.Error(), "bucket s3://b: reading an object: the bucket has not answered: dial tcp: connection refused for 1m1s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := answerOf(fmt.Errorf("a: %w", context.Canceled)).err; !errors.Is(got, context.Canceled) {
		t.Errorf("the innermost error is %v", got)
	}
}
