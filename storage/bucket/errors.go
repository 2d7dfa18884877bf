package bucket

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	gcs "cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	"google.golang.org/api/googleapi"

	"spillway/storage"
)

// A kind says what to do about a request that failed.
type kind int

const (
	transient kind = iota // ask again
	permanent             // asking again will not help
	missing               // no such object, or no such upload
	taken                 // the key is not free
	full                  // no space, or the quota is used up
	beyond                // the range begins behind the end
)

// sentinel is the error of package storage that says the same, or nil.
func (k kind) sentinel() error {
	switch k {
	case missing:
		return storage.ErrNotFound
	case taken:
		return storage.ErrExists
	case full:
		return storage.ErrFull
	}
	return nil
}

func isOurs(err error) bool {
	_, ok := errors.AsType[*failure](err)
	return ok || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrExists) || errors.Is(err, storage.ErrFull)
}

// A failure is a request that did not succeed, told without keys, addresses
// with queries, or credentials.
type failure struct {
	name   string // of the bucket
	what   string // was asked for
	answer answer
	kind   kind
	lasted time.Duration // for how long it was so; 0: it was seen once
}

func (f *failure) Error() string {
	why := f.answer.String()
	if f.lasted > 0 {
		why += " for " + f.lasted.Round(time.Second/10).String()
	}
	return fmt.Sprintf("bucket %s: %s: %s", f.name, f.what, why)
}

func (f *failure) Unwrap() error { return f.kind.sentinel() }

// An answer is what came back for a request that failed.
type answer struct {
	status int    // of HTTP; 0: none came
	code   string // of the service, such as NoSuchBucket
	text   string // its sentence; may name keys and accounts, so only Check shows it
	region string // where the bucket is, if the service says so
	err    error  // the innermost, if no answer came
}

func (a answer) String() string {
	switch {
	case a.status != 0 && a.code != "":
		return fmt.Sprintf("the bucket has answered %d %s", a.status, a.code)
	case a.status != 0:
		return fmt.Sprintf("the bucket has answered %d", a.status)
	case a.code != "":
		return "the bucket has answered " + a.code
	case errors.Is(a.err, errStalled):
		return "the bucket has not answered: a request moved no byte"
	}
	return fmt.Sprintf("the bucket has not answered: %v", a.err)
}

// answerOf reads an error of one of the SDKs.
func answerOf(err error) answer {
	var a answer
	if e, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		a.status = e.HTTPStatusCode()
		if e.Response != nil {
			a.region = e.Response.Header.Get("X-Amz-Bucket-Region")
		}
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		a.code, a.text = e.ErrorCode(), e.ErrorMessage()
	}
	if e, ok := errors.AsType[*googleapi.Error](err); ok {
		a.status, a.text = e.Code, e.Message
		if len(e.Errors) > 0 {
			a.code = e.Errors[0].Reason
		}
	}
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		a.status, a.code = e.StatusCode, e.ErrorCode
	}
	switch {
	case errors.Is(err, gcs.ErrBucketNotExist):
		a.status, a.code = http.StatusNotFound, "NoSuchBucket"
	case errors.Is(err, gcs.ErrObjectNotExist) && a.status == 0:
		a.status = http.StatusNotFound
	}
	if a.status == 0 {
		a.err = bare(err)
	}
	return a
}

// bare takes the layers off that tell addresses and keys.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// kind classifies an answer. The code says more than the status.
func (a answer) kind() kind {
	switch a.code {
	case "QuotaExceeded", "StorageQuotaExceeded", "InsufficientStorage", "XMinioStorageFull",
		"XMinioAdminBucketQuotaExceeded", "EDQUOT", "ENOSPC":
		return full
	case "NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "AccountIsDisabled":
		return permanent
	case "NoSuchKey", "NoSuchUpload", "BlobNotFound", "ResourceNotFound", "NotFound", "notFound", "UnknownError":
		if a.status == http.StatusNotFound || a.code == "NoSuchKey" || a.code == "NoSuchUpload" {
			return missing
		}
	case "BlobAlreadyExists", "PreconditionFailed", "ConditionNotMet", "TargetConditionNotMet", "InvalidBlockList", "UncommittedBlocksMissing":
		return taken
	case "SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody",
		"OperationAborted", "TemporaryRedirect", "ConditionalRequestConflict", "InternalError", "ServiceUnavailable",
		"ServerBusy", "OperationTimedOut", "rateLimitExceeded", "userRateLimitExceeded", "backendError":
		return transient
	}
	switch a.status {
	case 0:
		if _, ok := errors.AsType[*tls.CertificateVerificationError](a.err); ok || a.code != "" {
			return permanent
		}
		return transient
	case http.StatusNotFound:
		if a.code == "" {
			return missing
		}
		return permanent
	case http.StatusPreconditionFailed:
		return taken
	case http.StatusRequestedRangeNotSatisfiable:
		return beyond
	case http.StatusInsufficientStorage:
		return full
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return transient
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return permanent
	}
	if a.status >= http.StatusInternalServerError {
		return transient
	}
	return permanent
}

// unsupported reports whether a service has said that it does not know what
// was asked of it.
func unsupported(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && (f.answer.status == http.StatusNotImplemented || strings.Contains(f.answer.code, "NotImplemented"))
}
