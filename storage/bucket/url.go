package bucket

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"spillway/storage"
)

// ParseURL says what is wrong with the URL of a bucket, without connecting.
func ParseURL(s string) error {
	_, err := parse(s)
	return err
}

func parse(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("not a URL; write such as s3://name?region=eu-central-1") // the error would repeat it
	}
	known := parameters(u.Scheme)
	switch {
	case known == nil:
		return nil, fmt.Errorf("unknown scheme %q; there are s3://, gs:// and azblob://", u.Scheme)
	case u.User != nil:
		return nil, errors.New("it holds a user or password; give credentials by the environment instead")
	case u.Host == "":
		return nil, fmt.Errorf("it names no bucket; write %s://name", u.Scheme)
	case u.Path != "" && u.Path != "/" || u.Fragment != "":
		return nil, fmt.Errorf("a folder is given as a parameter: %s://%s?prefix=folder/", u.Scheme, u.Host)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("its parameters are malformed; separate them by & and escape what is special")
	}
	for name, values := range q {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("unknown parameter %q; for %s:// there are %s", name, u.Scheme, strings.Join(known, ", "))
		}
		if len(values) > 1 {
			return nil, fmt.Errorf("the parameter %q is there twice", name)
		}
	}
	if prefix := q.Get("prefix"); prefix != "" {
		folder, slash := strings.CutSuffix(prefix, "/")
		if !slash || !storage.ValidKey(folder) {
			return nil, errors.New("the prefix must be a folder such as exports/ or team/exports/, of letters, digits, '.', '_' and '-', and end in a slash")
		}
	}
	if e := q.Get("endpoint"); e != "" {
		endpoint, err := url.Parse(e)
		if err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" || endpoint.User != nil {
			return nil, errors.New("the endpoint must be an address such as https://minio.example.org:9000")
		}
	}
	return u, nil
}

// parameters of a scheme, in the order in which they are shown; nil for an
// unknown scheme. All but prefix are those of gocloud.dev.
func parameters(scheme string) []string {
	switch scheme {
	case "s3":
		return []string{
			"region", "endpoint", "use_path_style", "prefix", "profile", "role", "ssetype", "kmskeyid", "accelerate",
			"disable_https", "dualstack", "fips", "hostname_immutable", "anonymous", "rate_limiter_capacity",
			"request_checksum_calculation", "response_checksum_validation", "s3ForcePathStyle", "awssdk",
		}
	case "gs":
		return []string{"prefix", "access_id", "private_key_path", "universe_domain", "anonymous"}
	case "azblob":
		return []string{"prefix", "storage_account", "domain", "protocol", "cdn", "localemu"}
	}
	return nil
}
