package config

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spillway/upstream/profile"
)

const minimal = "upstream:\n  url: https://fhir.example.org/fhir\n"

// load reads text as spillway.yaml in a folder of its own.
func load(t *testing.T, text string, in Input) (*Config, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	in.File = "spillway.yaml"
	if err := os.WriteFile(in.File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(in)
}

func TestMessages(t *testing.T) {
	for _, test := range []struct {
		name   string
		yaml   string
		env    []string
		want   string // all messages
		prefix bool   // want is how they begin
	}{
		{name: "ErrUnknownKey", yaml: minimal + "  timout: 5s\n",
			want: "spillway.yaml:3: upstream.timout: unknown key; did you mean timeout?"},
		{name: "ErrUnknownKeyOfOtherSection", yaml: minimal + "listen: 127.0.0.1:1\n",
			want: "spillway.yaml:3: listen: unknown key; did you mean server.listen?"},
		{name: "ErrUnknownSection", yaml: minimal + "completely: {different: 1}\n",
			want: "spillway.yaml:3: completely: unknown key"},
		{name: "ErrSwappedLetters", yaml: minimal + "sevrer: {listen: 127.0.0.1:1}\n",
			want: "spillway.yaml:3: sevrer: unknown key; did you mean server?"},
		{name: "ErrManyAtOnce", yaml: "upstream:\n  url: fhir.example.org\n  page_size: many\nserver:\n  lisen: x\nlog: {level: loud}\n",
			want: "spillway.yaml:2: upstream.url: is no http or https address; write it such as https://fhir.example.org/fhir\n" +
				"spillway.yaml:3: upstream.page_size: \"many\" is no whole number\n" +
				"spillway.yaml:5: server.lisen: unknown key; did you mean listen?\n" +
				"spillway.yaml:6: log.level: \"loud\" is not allowed here; want debug, info, warn, error"},
		{name: "ErrNoURL", yaml: "upstream:\n  timeout: 5s\n",
			want: "spillway.yaml:1: upstream.url: is required; write it such as https://fhir.example.org/fhir"},
		{name: "ErrEmpty", yaml: "",
			want: "spillway.yaml:1: upstream.url: is required; write it such as https://fhir.example.org/fhir"},
		{name: "ErrNoValue", yaml: minimal + "  timeout:\n",
			want: "spillway.yaml:3: upstream.timeout: has no value"},
		{name: "ErrTwice", yaml: minimal + "  settle: 1s\n  settle: 2s\n",
			want: "spillway.yaml:4: upstream.settle: stands here a second time"},
		{name: "ErrSyntax", yaml: "upstream: [\n",
			want: "spillway.yaml:1: is not valid YAML: did not find expected node content"},
		{name: "ErrList", yaml: "- a\n",
			want: "spillway.yaml:1: want sections such as upstream: and server:"},
		{name: "ErrTwoDocuments", yaml: minimal + "---\nlog: {}\n",
			want: "spillway.yaml:3: a second YAML document begins; only one is read"},
		{name: "ErrAnchor", yaml: minimal + "log: &a {level: info}\n",
			want: "spillway.yaml:3: log: anchors and aliases of YAML are not supported here"},
		{name: "ErrTag", yaml: minimal + "log: {level: !!str info}\n",
			want: "spillway.yaml:3: log.level: tags of YAML are not supported here"},
		{name: "ErrValueForSection", yaml: minimal + "server: 127.0.0.1:8088\n",
			want: "spillway.yaml:3: server: want a section with keys of its own, not a value"},
		{name: "ErrSectionForValue", yaml: minimal + "  timeout: {seconds: 5}\n",
			want: "spillway.yaml:3: upstream.timeout: want a single value"},
		{name: "ErrNegative", yaml: minimal + "  timeout: -5s\n",
			want: "spillway.yaml:3: upstream.timeout: -5s is out of range; allowed is 100ms to 1h0m0s"},
		{name: "ErrNoUnit", yaml: minimal + "  timeout: 5\n",
			want: "spillway.yaml:3: upstream.timeout: \"5\" is no duration; write it such as 500ms, 30s, 5m, 24h or 7d"},
		{name: "ErrZeroConcurrency", yaml: minimal + "  max_concurrency: 0\n",
			want: "spillway.yaml:3: upstream.max_concurrency: 0 is out of range; allowed is 1 to 256"},
		{name: "ErrFraction", yaml: minimal + "export: {window: 1.5}\n",
			want: "spillway.yaml:3: export.window: \"1.5\" is no whole number"},
		{name: "ErrSize", yaml: minimal + "export: {file_size: 1 gallon}\n",
			want: "spillway.yaml:3: export.file_size: \"1 gallon\" is no size; write it such as 1GiB, 500MB or a number of bytes"},
		{name: "ErrBool", yaml: minimal + "server: {require_accept: yes}\n",
			want: "spillway.yaml:3: server.require_accept: \"yes\" is neither true nor false"},
		{name: "ErrPassword", yaml: "upstream: {url: 'https://me:hidden@fhir.example.org'}\n",
			want: "spillway.yaml:1: upstream.url: must not hold a user name or a password; put them into upstream.headers"},
		{name: "ErrQuery", yaml: "upstream: {url: 'https://fhir.example.org/fhir?a=b'}\n",
			want: "spillway.yaml:1: upstream.url: must not have a query or a fragment; it is the base to which paths are added"},
		{name: "ErrAliases", yaml: minimal + "  url_aliases: http://other\n",
			want: "spillway.yaml:3: upstream.url_aliases: want a list, such as [a, b]"},
		{name: "ErrAlias", yaml: minimal + "  url_aliases: [other]\n",
			want: "spillway.yaml:3: upstream.url_aliases: \"other\" is no http or https address; write it such as https://fhir.example.org/fhir"},
		{name: "ErrHeaderReserved", yaml: minimal + "  headers: {host: a}\n",
			want: "spillway.yaml:3: upstream.headers.host: Host cannot be set: the export sets it itself"},
		{name: "ErrHeaderName", yaml: minimal + "  headers: {a b: c}\n",
			want: "spillway.yaml:3: upstream.headers.a b: \"a b\" is no name of a header"},
		{name: "ErrHeaderTwice", yaml: minimal + "  headers: {X-A: c, x-a: d}\n",
			want: "spillway.yaml:3: upstream.headers.x-a: stands here a second time"},
		{name: "ErrHeaderFile", yaml: minimal + "  headers: {Authorization: {file: absent}}\n",
			want: "spillway.yaml:3: upstream.headers.Authorization: cannot read the secret: open absent: no such file or directory"},
		{name: "ErrUnset", yaml: "upstream:\n  url: ${FHIR_URL}\n",
			want: "spillway.yaml:2: upstream.url: the environment variable FHIR_URL is not set"},
		{name: "ErrUnclosed", yaml: minimal + "  headers: {X-A: '${A'}\n", env: []string{"A=1"},
			want: "spillway.yaml:3: upstream.headers.X-A: ${ without }; write $${ for the two characters themselves"},
		{name: "ErrRedisAndBolt", yaml: minimal + "store:\n  bolt: {path: a.db}\n  redis: {url: 'redis://localhost:6379/0'}\nstorage: {bucket: {url: 's3://x?region=a'}}\n",
			want: "spillway.yaml:5: store.redis: stands beside store.bolt; only one of them can be used, so remove the other"},
		{name: "ErrRedisByEnvironmentAndBolt", yaml: minimal + "store: {bolt: {path: a.db}}\nstorage: {bucket: {url: 's3://x?region=a'}}\n", env: []string{"SPILLWAY_STORE_REDIS_URL=redis://localhost"},
			want: "SPILLWAY_STORE_REDIS_URL: stands beside store.bolt; only one of them can be used, so remove the other"},
		{name: "ErrBucketAndDisk", yaml: minimal + "storage: {disk: {min_free: 1GiB}, bucket: {url: 's3://x?region=a'}}\n",
			want: "spillway.yaml:3: storage.bucket: stands beside storage.disk; only one of them can be used, so remove the other"},
		{name: "ErrNoRedisURL", yaml: minimal + "store:\n  redis:\n    username: me\n",
			want: "spillway.yaml:4: store.redis.url: is required; write it such as redis://localhost:6379/0"},
		{name: "ErrNoBucketURL", yaml: minimal + "storage: {bucket: }\n",
			want: "spillway.yaml:3: storage.bucket.url: is required; write it such as s3://my-exports?region=eu-central-1"},
		{name: "ErrRedisScheme", yaml: minimal + "store: {redis: {url: 'amqp://me:hidden@localhost'}}\n", prefix: true,
			want: "spillway.yaml:3: store.redis.url: "},
		{name: "ErrRedisURL", yaml: minimal + "store: {redis: {url: 'redis://me:hidden@host:port'}}\n", prefix: true,
			want: "spillway.yaml:3: store.redis.url: "},
		{name: "ErrRedisURLByEnvironment", yaml: minimal, env: []string{"SPILLWAY_STORE_REDIS_URL=localhost:6379"}, prefix: true,
			want: "SPILLWAY_STORE_REDIS_URL: "},
		{name: "ErrRedisPrefix", yaml: minimal + "store: {redis: {url: 'redis://localhost', key_prefix: '{a}'}}\n",
			want: "spillway.yaml:3: store.redis.key_prefix: \"{a}\" is no prefix; it has 1 to 64 letters, digits and characters of ._:-"},
		{name: "ErrRedisHalfTLS", yaml: minimal + "store: {redis: {url: 'rediss://localhost', key_file: k.pem}}\n",
			want: "spillway.yaml:3: store.redis: needs both cert_file and key_file, or neither"},
		{name: "ErrRedisPasswordFile", yaml: minimal + "store:\n  redis:\n    url: redis://localhost\n    password_file: absent\n",
			want: "spillway.yaml:6: store.redis.password_file: cannot read the secret: open absent: no such file or directory"},
		{name: "ErrRecordKeyFile", yaml: minimal + "store:\n  redis:\n    url: redis://localhost\n    record_key_file: absent\n",
			want: "spillway.yaml:6: store.redis.record_key_file: cannot read the secret: open absent: no such file or directory"},
		{name: "ErrRedisTwoPasswords", yaml: minimal + "store:\n  redis:\n    url: redis://localhost\n    password: ${P}\n    password_file: absent\n", env: []string{"P=hidden"},
			want: "spillway.yaml:7: store.redis.password_file: stands beside store.redis.password; remove one of them"},
		{name: "ErrRedisUnset", yaml: minimal + "store: {redis: {url: 'redis://localhost', password: '${P}'}}\n",
			want: "spillway.yaml:3: store.redis.password: the environment variable P is not set"},
		{name: "ErrRedisKey", yaml: minimal + "store: {redis: {url: 'redis://localhost', pasword: a}}\n",
			want: "spillway.yaml:3: store.redis.pasword: unknown key; did you mean password?"},
		{name: "ErrBucketScheme", yaml: minimal + "storage: {bucket: {url: 'ftp://x'}}\n",
			want: "spillway.yaml:3: storage.bucket.url: unknown scheme \"ftp\"; there are s3://, gs:// and azblob://"},
		{name: "ErrBucketPassword", yaml: minimal + "storage: {bucket: {url: 's3://me:hidden@x'}}\n", prefix: true,
			want: "spillway.yaml:3: storage.bucket.url: "},
		{name: "ErrPresignLong", yaml: minimal + "storage: {bucket: {url: 's3://x?region=a', presign: 8d}}\n",
			want: "spillway.yaml:3: storage.bucket.presign: 8d is out of range; allowed is 1m to 7d, or 0 for files that go through the gateway"},
		{name: "ErrPresignShort", yaml: minimal + "storage: {bucket: {url: 's3://x?region=a', presign: 5s}}\n",
			want: "spillway.yaml:3: storage.bucket.presign: 5s is out of range; allowed is 1m to 7d, or 0 for files that go through the gateway"},
		{name: "ErrPresignNoUnit", yaml: minimal + "storage: {bucket: {url: 's3://x?region=a', presign: 15}}\n",
			want: "spillway.yaml:3: storage.bucket.presign: \"15\" is no duration; write it such as 500ms, 30s, 5m, 24h or 7d"},
		{name: "ErrDrain", yaml: minimal + "server: {drain: 1h}\n",
			want: "spillway.yaml:3: server.drain: 1h is out of range; allowed is 0s to 10m0s"},
		{name: "ErrProfile", yaml: minimal + "  profile: hapi.yaml\n",
			want: "spillway.yaml:3: upstream.profile: \"hapi.yaml\": it is neither auto, nor a built-in profile (blaze, cerner, epic, firely, generic, google, hapi, linuxforhealth, medplum, microsoft), nor a file that can be read: open hapi.yaml: no such file or directory"},
		{name: "ErrAnonymous", yaml: minimal + "server: {listen: '0.0.0.0:8088'}\n",
			want: "spillway.yaml:3: server.listen: 0.0.0.0:8088 can be reached from other machines, and with auth.mode none everybody there could export everything; " +
				"listen on 127.0.0.1 behind a proxy that authenticates, or set auth.allow_anonymous: true"},
		{name: "ErrSameListen", yaml: minimal + "server: {admin_listen: '127.0.0.1:8088'}\n",
			want: "spillway.yaml:3: server.admin_listen: is the address of server.listen; metrics and profiling need one of their own"},
		{name: "ErrHalfTLS", yaml: minimal + "server:\n  tls: {cert_file: a.pem}\n",
			want: "spillway.yaml:4: server.tls: needs both cert_file and key_file, or neither"},
		{name: "ErrLoop", yaml: "upstream: {url: 'http://localhost:8088/fhir'}\n",
			want: "spillway.yaml:1: upstream.url: is the address of server.listen; the gateway would call itself"},
		{name: "ErrStoreInStorage", yaml: minimal + "storage: {disk: {path: spillway-data}}\n",
			want: "spillway.yaml:1: store.bolt.path: lies in storage.disk.path, which holds files of exports only"},
		{name: "ErrResourceBytes", yaml: minimal + "  page_bytes: 1MiB\n",
			want: "spillway.yaml:1: upstream.resource_bytes: is larger than upstream.page_bytes, which holds the resource"},
		{name: "ErrHours", yaml: minimal + "  hours: 20-6\n",
			want: "spillway.yaml:3: upstream.hours: \"20-6\" is no range of hours: \"20\" is no time of day; write one like 06:30"},
		{name: "ErrTimeZone", yaml: minimal + "  time_zone: Berlin\n",
			want: "spillway.yaml:3: upstream.time_zone: \"Berlin\" is no time zone; write it such as UTC, Europe/Berlin or Local"},
		{name: "ErrEnvironment", yaml: minimal, env: []string{"SPILLWAY_UPSTREAM_TIMEOUT=soon", "SPILLWAY_UPSTREAM_SETLE=1s", "SPILLWAY_EXPORT_NICE=1"},
			want: "SPILLWAY_UPSTREAM_TIMEOUT: \"soon\" is no duration; write it such as 500ms, 30s, 5m, 24h or 7d\n" +
				"SPILLWAY_EXPORT_NICE: no key has this name\n" +
				"SPILLWAY_UPSTREAM_SETLE: no key has this name; did you mean SPILLWAY_UPSTREAM_SETTLE?"},
		{name: "ErrEnvironmentAnonymous", yaml: minimal, env: []string{"SPILLWAY_SERVER_LISTEN=:8088"},
			want: "SPILLWAY_SERVER_LISTEN: :8088 can be reached from other machines, and with auth.mode none everybody there could export everything; " +
				"listen on 127.0.0.1 behind a proxy that authenticates, or set auth.allow_anonymous: true"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := load(t, test.yaml, Input{Environ: test.env, Serve: true})
			if err == nil {
				t.Fatal("no error")
			}
			got := err.Error()
			if strings.Contains(got, "hidden") {
				t.Errorf("a secret is shown: %s", got)
			}
			if test.prefix && len(got) > len(test.want) {
				got = got[:len(test.want)] // the rest is said by the package of the service
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoFile(t *testing.T) {
	_, err := Load(Input{File: filepath.Join(t.TempDir(), "absent.yaml"), Flags: []Flag{{"--upstream", KeyURL, "http://a"}}})
	if err == nil || !strings.Contains(err.Error(), "cannot read the configuration") {
		t.Errorf("got %v", err)
	}
	_, err = Load(Input{})
	if want := "upstream.url: is required; write it such as https://fhir.example.org/fhir"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// documented is the example that operators start from.
const documented = `
upstream:
  url: https://fhir.example.org/fhir        # the only key without a default
  url_aliases: []                           # other addresses by which it names itself in next links
  headers: {}                               # sent with the export's own requests, never with pass-through
  profile: auto
  settle: 5s
  timeout: 60s
  max_concurrency: 8
  page_size: 1000
server:
  listen: 127.0.0.1:8088
  admin_listen: 127.0.0.1:8089
  public_url: http://127.0.0.1:8088/fhir    # default: listen address + the upstream's path
  tls: {cert_file: "", key_file: ""}
  require_accept: true
  require_prefer_async: true
export:
  window: 10000
  file_size: 1GiB
  retention: 24h
  max_active: 4                             # exports running at once; more wait
store:
  bolt: {path: spillway-data/jobs.db}       # default
  # redis: {url: redis://localhost:6379/0, key_prefix: spillway}
storage:
  disk: {path: spillway-data/files}         # default
  # bucket: {url: "s3://my-exports?region=eu-central-1", presign: 15m}
auth:
  mode: none
log: {level: info, format: text}
`

// TestDefaults holds the defaults against the documented ones.
func TestDefaults(t *testing.T) {
	short, err := load(t, minimal, Input{Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	long, err := load(t, documented, Input{Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8088}
	if got, want := short.PublicURL(at), long.Server.PublicURL; got.String() != want.String() {
		t.Errorf("default public URL: got %s, want %s", got, want)
	}
	for _, c := range []*Config{short, long} {
		if len(c.Warnings) > 0 {
			t.Errorf("warnings: %q", c.Warnings)
		}
	}
	effective := strings.Replace(short.String(), "server.public_url: \n", "server.public_url: http://127.0.0.1:8088/fhir\n", 1)
	if diff := cmp.Diff(long.String(), effective); diff != "" {
		t.Errorf("documented (-) against default (+):\n%s", diff)
	}
}

// TestReadme: the configurations in the README are valid, and what the first one
// shows as defaults are the defaults.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 5 {
		t.Fatalf("README.md has %d blocks of YAML", len(blocks))
	}
	block := blocks[0][1]
	shown, err := load(t, block, Input{Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := load(t, minimal, Input{Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	effective := strings.Replace(fresh.String(), "server.public_url: \n", "server.public_url: http://127.0.0.1:8088/fhir\n", 1)
	if diff := cmp.Diff(shown.String(), effective); diff != "" {
		t.Errorf("README (-) against default (+):\n%s", diff)
	}
	alternatives := regexp.MustCompile(`(?m)^  (bolt|disk):`).ReplaceAllString(regexp.MustCompile(`(?m)^  # `).ReplaceAllString(block, "  "), "  # $1:")
	if _, err := load(t, alternatives, Input{Serve: true, Environ: []string{"REDIS_PASSWORD=secret"}}); err != nil {
		t.Errorf("the alternatives that are commented out: %v", err)
	}
	text := ""
	for i, b := range blocks {
		text += b[1]
		if i == 0 {
			continue
		}
		if strings.HasPrefix(b[1], "like: ") {
			if _, err := profile.Parse("README.md", []byte(b[1])); err != nil {
				t.Error(err)
			}
			continue
		}
		files(t)
		yaml := b[1]
		if !strings.Contains(yaml, "  url: ") {
			yaml = minimal + yaml
		}
		c, err := read(t, yaml, "REDIS_PASSWORD=secret", "INTROSPECTION_SECRET=secret", "UPSTREAM_PASSWORD=secret", "UPSTREAM_KEY=secret")
		if err != nil {
			t.Errorf("block %d: %v", i+1, err)
			continue
		}
		fresh = c
		for _, k := range c.everyKey() {
			if last := k.name[strings.LastIndexByte(k.name, '.')+1:]; strings.Contains(k.name, "[") && !strings.Contains(text, last+":") {
				t.Errorf("README.md does not show %s", k.name)
			}
		}
	}
	for _, k := range fresh.keys {
		if last := k.name[strings.LastIndexByte(k.name, '.')+1:]; !strings.Contains(text, last+":") {
			t.Errorf("README.md does not show %s", k.name)
		}
	}
}

func TestEverything(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("Bearer from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(t, `
upstream:
  url: "${SCHEME}://fhir.example.org/fhir/"
  url_aliases: [http://a.example.org/fhir, "http://b.example.org:8080"]
  headers:
    Authorization: {file: `+secret+`}
    X-Api-Key_file: `+secret+`
    X-Literal: $${HOME} and ${SCHEME}
    X-Token: written here
  settle: 0s
  page_bytes: 64MB
server: {listen: "localhost:0", admin_listen: "[::1]:0", require_accept: false}
export: {retention: 7d, file_size: 1.5 GiB}
log: {level: debug}
`, Input{
		Serve: true,
		Environ: []string{
			"SCHEME=https", "HOME=/root", "SPILLWAY_LOG_LEVEL=warn", "SPILLWAY_UPSTREAM_PAGE_SIZE=500",
			"SPILLWAY_UPSTREAM_HEADERS=X-Env: 1\nX-Other: 2", "SPILLWAY_STORE_BOLT_PATH=elsewhere/jobs.db",
			"SPILLWAY_TEST_REQUIRE=all", "SPILLWAY_SERVICE_HOST=10.0.0.1", "SPILLWAY_STORE_SERVICE_HOST=10.0.0.2",
			"SPILLWAY_STORE_PORT_6379_TCP=x", "SPILLWAY_UPSTREAM_TIMEOUT=",
		},
		Flags: []Flag{{"--page-size", KeyPageSize, "250"}, {"--header", KeyHeaders, "X-Flag: @" + secret}, {"--header", KeyHeaders, "X-Env:3"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantHeader := http.Header{
		"Authorization": {"Bearer from-file"}, "X-Api-Key": {"Bearer from-file"}, "X-Literal": {"${HOME} and https"},
		"X-Token": {"written here"}, "X-Env": {"3"}, "X-Other": {"2"}, "X-Flag": {"Bearer from-file"},
	}
	if diff := cmp.Diff(wantHeader, c.Upstream.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	for _, check := range []struct{ name, got, want string }{
		{"url", c.Upstream.URL.String(), "https://fhir.example.org/fhir"},
		{"alias", c.Upstream.Aliases[1].String(), "http://b.example.org:8080"},
		{"settle", c.Upstream.Settle.String(), "0s"},
		{"timeout", c.Upstream.Timeout.String(), "1m0s"},
		{"retention", c.Export.Retention.String(), (7 * 24 * time.Hour).String()},
		{"file_size", formatSize(c.Export.FileSize), "1536MiB"},
		{"page_bytes", formatSize(c.Upstream.PageBytes), "62500KiB"},
		{"level", c.Log.Level, "warn"},
		{"bolt", c.Store.BoltPath, "elsewhere/jobs.db"},
		{"public", c.PublicURL(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}).String(), "http://localhost:4711/fhir"},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %s, want %s", check.name, check.got, check.want)
		}
	}
	if c.Upstream.PageSize != 250 || c.Export.Workers != 10 || c.Server.RequireAccept {
		t.Errorf("page size %d, workers %d, require accept %t", c.Upstream.PageSize, c.Export.Workers, c.Server.RequireAccept)
	}
	wantWarnings := []string{"spillway.yaml:9: upstream.headers.X-Token: a secret stands in the file itself; write ${NAME} or {file: path} instead"}
	if diff := cmp.Diff(wantWarnings, c.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	for _, text := range []string{"Bearer", "written here"} {
		if strings.Contains(c.String(), text) {
			t.Errorf("the effective configuration shows a secret:\n%s", c)
		}
	}
}

// TestShared: the configuration of many replicas.
func TestShared(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const away = "is used with storage.disk, so every process that uses this Redis needs the same folder at storage.disk.path; otherwise use storage.bucket"
	const plain = "a secret stands in the file itself; write ${NAME}, or name a file with password_file"
	alone, err := load(t, minimal+"store: {redis: {url: 'redis://h'}}\nstorage: {bucket: {url: 's3://x?region=a'}}\n", Input{Serve: true})
	if err != nil || len(alone.Warnings) != 1 || !strings.HasPrefix(alone.Warnings[0], "spillway.yaml:1: server.public_url: is not set") {
		t.Errorf("without a public address: %v, %q", err, alone.Warnings)
	}
	recordKey := filepath.Join(t.TempDir(), "record.key")
	if err := os.WriteFile(recordKey, []byte(strings.Repeat("k", 64)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bucket := "storage: {bucket: {url: 's3://x?region=a&prefix=p/', presign: 0}}\n"
	for _, test := range []struct {
		name, yaml string
		env        []string
		want       Redis
		presign    time.Duration
		warnings   []string
		shows      string // a line of the effective configuration
	}{
		{
			name: "PasswordFile", yaml: bucket + "store:\n  redis: {url: 'rediss://h:6380/2', username: me, password_file: " + secret + ", key_prefix: a.b, ca_file: ca.pem}\n",
			want:  Redis{URL: "rediss://h:6380/2", Username: "me", Password: "from-file", KeyPrefix: "a.b", CAFile: "ca.pem"},
			shows: "store.redis.password: (set)\n",
		},
		{
			name: "RecordKeyFile", yaml: bucket + "store:\n  redis: {url: 'redis://h', record_key_file: " + recordKey + "}\n",
			want: Redis{URL: "redis://h", KeyPrefix: "spillway", RecordKey: []byte(strings.Repeat("k", 64))}, shows: "store.redis.record_key_file: " + recordKey + "\n",
		},
		{
			name: "PasswordReference", yaml: bucket + "store: {redis: {url: 'redis://h', password: '${P}'}}\n", env: []string{"P=tell-nobody"},
			want: Redis{URL: "redis://h", Password: "tell-nobody", KeyPrefix: "spillway"}, shows: "store.redis.password: (set)\n",
		},
		{
			name: "PasswordInTheFile", yaml: bucket + "store: {redis: {url: 'redis://h', password: tell-nobody}}\n",
			want:     Redis{URL: "redis://h", Password: "tell-nobody", KeyPrefix: "spillway"},
			warnings: []string{"spillway.yaml:2: store.redis.password: " + plain}, shows: "store.redis.password: (set)\n",
		},
		{
			name: "PasswordInTheURL", yaml: bucket + "store: {redis: {url: 'redis://me:tell-nobody@h'}}\n",
			want:     Redis{URL: "redis://me:tell-nobody@h", KeyPrefix: "spillway"},
			warnings: []string{"spillway.yaml:2: store.redis.url: " + plain}, shows: "store.redis.url: redis://me:xxxxx@h\n",
		},
		{
			name: "PasswordInTheURLOfTheEnvironment", yaml: bucket, env: []string{"SPILLWAY_STORE_REDIS_URL=redis://:tell-nobody@h", "SPILLWAY_STORE_REDIS_ALLOW_INSECURE=true"},
			want: Redis{URL: "redis://:tell-nobody@h", KeyPrefix: "spillway", AllowInsecure: true}, shows: "store.redis.url: redis://:xxxxx@h\n",
		},
		{
			name: "Disk", yaml: "store: {redis: {url: 'redis://h'}}\nstorage: {disk: {path: /mnt/shared}}\n",
			want: Redis{URL: "redis://h", KeyPrefix: "spillway"}, warnings: []string{"spillway.yaml:1: store.redis.url: " + away},
		},
		{
			name: "PerClient", yaml: bucket + "export: {max_active_per_client: 2}\n", want: Redis{KeyPrefix: "spillway"},
			warnings: []string{"spillway.yaml:2: export.max_active_per_client: has no effect with auth.mode none, which does not tell clients apart"},
			shows:    "export.max_active_per_client: 2\n",
		},
		{
			name: "BucketWithoutRedis", yaml: "storage: {bucket: {url: 's3://x?region=a', presign: 15m}}\n", want: Redis{KeyPrefix: "spillway"},
			presign: 15 * time.Minute, shows: "storage.bucket.presign: 15m0s\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := load(t, test.yaml+"upstream: {url: 'https://fhir.example.org'}\nserver: {public_url: 'https://bulk.example.org'}\n", Input{Environ: test.env, Serve: true})
			if err != nil {
				t.Fatal(err)
			}
			got := c.Store.Redis
			got.passwordFile, got.recordKeyFile = "", ""
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(Redis{})); diff != "" {
				t.Errorf("redis (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.warnings, c.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if c.Storage.Bucket.Presign != test.presign {
				t.Errorf("presign %v", c.Storage.Bucket.Presign)
			}
			if shown := c.String(); !strings.Contains(shown, test.shows) || strings.Contains(shown, "tell-nobody") || strings.Contains(shown, "from-file") {
				t.Errorf("shown:\n%s", shown)
			}
		})
	}
}

// TestServeOnly: what matters to a listening gateway does not stop an export.
func TestServeOnly(t *testing.T) {
	text := minimal + "server: {listen: '0.0.0.0:8088'}\n"
	if _, err := load(t, text, Input{}); err != nil {
		t.Errorf("without listening: %v", err)
	}
	c, err := load(t, text+"auth: {allow_anonymous: true}\n", Input{Serve: true})
	if err != nil {
		t.Fatalf("allowed: %v", err)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "server.public_url") {
		t.Errorf("warnings: %q", c.Warnings)
	}
}

func TestEnvNames(t *testing.T) {
	names := make(map[string]string)
	for _, k := range keysOf(defaults()) {
		name := envName(k.name)
		if other, taken := names[name]; taken {
			t.Errorf("%s and %s share %s", k.name, other, name)
		}
		names[name] = k.name
	}
	if names["SPILLWAY_SERVER_TLS_CERT_FILE"] != "server.tls.cert_file" {
		t.Error("SPILLWAY_SERVER_TLS_CERT_FILE is missing")
	}
}

func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		minimal, documented, withJWT, withAsking, withBuiltin + client, withMTLS + certified, withBuiltin + "      - {id: a, jwks: {keys: [{}, 1, null, a]}}\n", "upstream: [", "a: &a [*a]", "? {x: y}\n: z\n", "upstream: {headers: {A: {file: x}}}", "<<: {a: b}",
		"upstream:\n  url: ${A}${", "upstream: {url_aliases: [[a], {b: c}, null]}", "\xff\xfe", "%YAML 1.2\n---\n", "a: !!binary x\n--- b\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := defaults()
		in := Input{File: "spillway.yaml", Serve: true, Environ: []string{"A=b"}}
		l := newLoader(c, in)
		made := func(string) (string, error) { return "s", nil } // open nothing that fuzzing made up
		l.secret, l.private, l.public = made, made, made
		l.walk(in.File, []byte(text))
		got, err := l.finish(in)
		if err == nil {
			if got.Upstream.URL == nil || got.String() == "" {
				t.Error("accepted without an upstream")
			}
			return
		}
		for _, p := range err.(Problems) {
			if p.Line < 1 || p.Source != "spillway.yaml" || p.Text == "" {
				t.Errorf("problem without its place: %+v", p)
			}
		}
	})
}
