package bucket

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"spillway/test/testenv"
)

func TestCheck(t *testing.T) {
	services(t, func(t *testing.T, b *testenv.Bucket) {
		for _, prefix := range []string{"", "a/b/"} {
			s := open(t, b.URL(prefix))
			warnings, err := s.Check(t.Context())
			if err != nil {
				t.Errorf("prefix %q: Check = %v", prefix, err)
			}
			for _, w := range warnings {
				if !strings.Contains(w, "bucket is public") { // fake-gcs-server is
					t.Errorf("prefix %q: warned: %s", prefix, w)
				}
			}
			if err := s.CheckLinks(t.Context()); err != nil {
				t.Errorf("prefix %q: CheckLinks = %v", prefix, err)
			}
			for o, err := range s.List(t.Context(), "") {
				t.Errorf("prefix %q: %s was left (%v)", prefix, o.Key, err)
			}
		}
	})
}

// checkOf opens a URL and checks it.
func checkOf(t *testing.T, url string) ([]string, error) {
	t.Helper()
	s, err := Open(t.Context(), Options{URL: url, Logger: slog.New(slog.DiscardHandler), MaxOutage: time.Second})
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	return s.Check(t.Context())
}

func TestCheckS3Says(t *testing.T) {
	b := testenv.S3(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	website := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html><body>It works!</body></html>")
	}))
	defer website.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	tests := []struct {
		name  string
		env   [2]string
		url   string
		words []string
	}{
		{"wrong key", [2]string{"AWS_ACCESS_KEY_ID", "nobody"}, b.URL(""), []string{"check AWS_ACCESS_KEY_ID"}},
		{"wrong secret", [2]string{"AWS_SECRET_ACCESS_KEY", "wrong"}, b.URL(""), []string{"SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"}},
		{"no credentials", [2]string{"AWS_ACCESS_KEY_ID", ""}, b.URL(""), []string{"no credentials were found", "set AWS_ACCESS_KEY_ID"}},
		{"wrong region", [2]string{}, strings.Replace(b.URL(""), "us-east-1", "eu-west-1", 1), []string{"the region us-east-1", "correct region="}},
		{"no region", [2]string{}, strings.Replace(b.URL(""), "region=us-east-1&", "", 1), []string{"no region", "add region="}},
		{"no bucket", [2]string{}, strings.Replace(b.URL(""), "s3://exports", "s3://nobodys", 1), []string{"s3://nobodys", "no such bucket"}},
		{"nobody there", [2]string{}, b.At(closed, ""), []string{"has not answered", "connection refused", "is the address right"}},
		{"no host", [2]string{}, b.At("no-such-host.invalid", ""), []string{"no such host"}},
		{"a web site", [2]string{}, b.At(website.Listener.Addr().String(), ""), []string{"does object storage answer at this address?"}},
		{"an empty web site", [2]string{}, b.At(missing.Listener.Addr().String(), ""), []string{"does not seem to be S3"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.env[0] != "" {
				t.Setenv(test.env[0], test.env[1])
			}
			_, err := checkOf(t, test.url)
			says(t, err, test.words...)
		})
	}
}

// says fails the test unless err has the words and tells no secret.
func says(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	t.Log(err)
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	for _, w := range []string{"test-secret", "Signature=", "X-Amz-"} {
		if strings.Contains(err.Error(), w) {
			t.Errorf("%q tells %q", err, w)
		}
	}
}

func TestCheckSaysWhichPermissionIsMissing(t *testing.T) {
	b := testenv.S3(t)
	p := newProxy(t, b.Address)
	denied := status(http.StatusForbidden, "AccessDenied")
	query := func(method, name string, there bool, f fault) fault {
		return only(method, func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Query().Has(name) == there && f(w, r)
		})
	}
	tests := []struct {
		name  string
		fault fault
		words []string
	}{
		{"list", query(http.MethodGet, "list-type", true, denied), []string{"cannot list", "s3:ListBucket"}},
		{"write", only(http.MethodPut, denied), []string{"cannot write", "s3:PutObject"}},
		{"read", query(http.MethodGet, "list-type", false, denied), []string{"cannot read", "s3:GetObject"}},
		{"delete", query(http.MethodPost, "delete", true, denied), []string{"cannot delete", "s3:DeleteObject"}},
		{"abort", query(http.MethodDelete, "uploadId", true, denied), []string{"cannot upload in parts", "s3:AbortMultipartUpload"}},
		{"clock", status(http.StatusForbidden, "RequestTimeTooSkewed"), []string{"clock"}},
		{"full", only(http.MethodPut, status(http.StatusInsufficientStorage, "XMinioStorageFull")), []string{"cannot write", "make space"}},
		{"trouble", status(http.StatusServiceUnavailable, "SlowDown"), []string{"503 SlowDown", "try again later"}},
		{"region", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X-Amz-Bucket-Region", "eu-central-1")
			return status(http.StatusMovedPermanently, "PermanentRedirect")(w, r)
		}, []string{"the region eu-central-1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p.set(test.fault)
			defer p.set(nil)
			_, err := checkOf(t, b.At(p.address, ""))
			says(t, err, test.words...)
		})
	}
}

func TestCheckWarns(t *testing.T) {
	b := testenv.S3(t, "--versioning-dir", t.TempDir())
	s := open(t, b.URL(""))
	service := s.service.(*s3Service)
	_, err := service.client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: &service.name, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, b.Address)
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !r.URL.Query().Has("lifecycle") {
			return false
		}
		return status(http.StatusNotFound, "NoSuchLifecycleConfiguration")(w, r)
	})
	warnings, err := open(t, b.At(p.address, "")).Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(warnings, "\n")
	for _, w := range []string{"Versioning is on", "AbortIncompleteMultipartUpload"} {
		if !strings.Contains(all, w) {
			t.Errorf("the warnings %q do not say %q", warnings, w)
		}
	}
}

func TestCheckGCSAndAzureSay(t *testing.T) {
	t.Run("GCS", func(t *testing.T) {
		b := testenv.GCS(t)
		_, err := checkOf(t, strings.Replace(b.URL(""), "gs://exports", "gs://nobodys", 1))
		says(t, err, "gs://nobodys", "no such bucket")
	})
	t.Run("Azure", func(t *testing.T) {
		b := testenv.Azure(t)
		_, err := checkOf(t, strings.Replace(b.URL(""), "azblob://exports", "azblob://nobodys", 1))
		says(t, err, "azblob://nobodys", "no such container")
		t.Setenv("AZURE_STORAGE_KEY", "d3Jvbmc=")
		_, err = checkOf(t, b.URL(""))
		says(t, err, "check AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY")
		t.Setenv("AZURE_STORAGE_KEY", "no base64!")
		_, err = checkOf(t, b.URL(""))
		says(t, err, "AZURE_STORAGE_KEY is no key")
	})
}
