package config

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// parseDuration reads "5s", "1h30m" or whole days such as "7d".
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration; write it such as 500ms, 30s, 5m, 24h or 7d", s)
	}
	return d, nil
}

// parseSize reads "1GiB", "1.5 GB", "500MB" or plain bytes.
func parseSize(s string) (int64, error) {
	number, unit := strings.ToUpper(strings.TrimSpace(s)), 1.0
	for _, u := range []struct {
		suffix string
		bytes  float64
	}{ // no suffix hides a longer one behind it
		{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
		{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
	} {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	if number == "" || strings.Trim(number, "0123456789.") != "" {
		return 0, fmt.Errorf("%q is no size; write it such as 1GiB, 500MB or a number of bytes", s)
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size; write it such as 1GiB, 500MB or a number of bytes", s)
	}
	return int64(n * unit), nil
}

// formatSize is the reverse of parseSize, without loss.
func formatSize(n int64) string {
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}

// parseBase reads a FHIR base address.
func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Opaque != "":
		// url.Parse quotes the address in its error, and with it a password.
		return nil, errors.New("is no http or https address; write it such as https://fhir.example.org/fhir")
	case u.User != nil:
		return nil, errors.New("must not hold a user name or a password; put them into upstream.headers")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(s, "#"):
		return nil, errors.New("must not have a query or a fragment; it is the base to which paths are added")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, errors.New("has no valid port")
		}
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	return u, nil
}

// parsePresign reads how long links hold. The longest is what S3 allows.
func parsePresign(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	d, err := parseDuration(s)
	if err == nil && d != 0 && (d < time.Minute || d > 7*24*time.Hour) {
		return 0, fmt.Errorf("%s is out of range; allowed is 1m to 7d, or 0 for files that go through the gateway", s)
	}
	return d, err
}

// parseKeyPrefix reads what the names of all keys in Redis begin with.
func parseKeyPrefix(s string) (string, error) {
	if s == "" || len(s) > 64 || strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789._:-") != "" {
		return "", fmt.Errorf("%q is no prefix; it has 1 to 64 letters, digits and characters of ._:-", s)
	}
	return s, nil
}

// Redacted returns the URL of a service without what may be secret in it: the
// password, and parameters that are named so. For logs and reports.
func Redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not readable)"
	}
	q := u.Query()
	for name := range q {
		if strings.Contains(name, "password") || strings.Contains(name, "secret") || strings.Contains(name, "token") {
			q.Set(name, "xxxxx")
			u.RawQuery = q.Encode()
		}
	}
	return u.Redacted()
}

// parseListen checks a host:port to listen on. Port 0 lets the system choose.
func parseListen(s string) (string, error) {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", fmt.Errorf("%q is no address to listen on; write it such as 127.0.0.1:8088", s)
	}
	return s, nil
}

// loopback reports whether an address to listen on can be reached from this
// machine only.
func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// expand replaces ${NAME} by the environment; $${ stands for ${.
func expand(s string, lookup func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1] + "${")
			s = s[i+2:]
			continue
		}
		end := strings.IndexByte(s[i:], '}')
		if end < 0 {
			return "", errors.New("${ without }; write $${ for the two characters themselves")
		}
		name := s[i+2 : i+end]
		if !validName(name) {
			return "", errors.New("${...} does not hold the name of an environment variable; write $${ for the two characters themselves")
		}
		value, ok := lookup(name)
		if !ok {
			return "", fmt.Errorf("the environment variable %s is not set", name)
		}
		b.WriteString(s[:i] + value)
		s = s[i+end+1:]
	}
}

func validName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// maxSecret is far above any token, and keeps a device file from filling memory.
const maxSecret = 64 << 10

// readSecret reads a file that holds one secret. Line ends at its end do not
// belong to the secret.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the secret: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the secret: %w", err)
	}
	secret := strings.TrimRight(string(b), "\r\n")
	switch {
	case len(b) > maxSecret:
		return "", fmt.Errorf("the file %s is larger than 64 KiB, so it holds no secret", path)
	case secret == "":
		return "", fmt.Errorf("the file %s is empty", path)
	}
	return secret, nil
}

// ReadPrivate reads a file that holds a private key, which nobody but its owner
// and group may read.
func ReadPrivate(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the key: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", fmt.Errorf("the file %s can be read or changed by everybody; take that right away (chmod o= %[1]s)", path)
	}
	return readSecret(path)
}

// readPublic reads a small file that holds no secret.
func readPublic(path string) (string, error) {
	text, err := readSecret(path)
	if err != nil {
		return "", errors.New(strings.Replace(err.Error(), "the secret", "the file", 1))
	}
	return text, nil
}

// checkHeader says what is wrong with a header, if anything. It never quotes
// the value.
func checkHeader(name, value string) error {
	if name == "" || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") != "" {
		return fmt.Errorf("%q is no name of a header", name)
	}
	for _, reserved := range []string{
		"Accept", "Accept-Encoding", "Cache-Control", "Connection", "Content-Length", "Content-Type", "Host", "Keep-Alive",
		"Prefer", "Proxy-Connection", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	} {
		if strings.EqualFold(name, reserved) {
			return fmt.Errorf("%s cannot be set: the export sets it itself", reserved)
		}
	}
	for _, c := range []byte(value) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("the value of %s holds a line end or another control character", name)
		}
	}
	return nil
}
