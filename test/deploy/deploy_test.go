// Package deploy tests the files of the folder deploy as far as that goes
// without containers: what they say to each other, and what spillway says to
// its configurations.
package deploy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"spillway/test/process"
)

const folder = "../../deploy/"

// service is what we look at of a service in compose.yaml.
type service struct {
	Image       string            `yaml:"image"`
	Command     any               `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	ReadOnly    bool              `yaml:"read_only"`
	CapDrop     []string          `yaml:"cap_drop"`
	SecurityOpt []string          `yaml:"security_opt"`
	StopGrace   string            `yaml:"stop_grace_period"`
}

func services(t *testing.T) map[string]service {
	t.Helper()
	var file struct {
		Services map[string]service `yaml:"services"`
	}
	read(t, "compose.yaml", &file)
	if len(file.Services) == 0 {
		t.Fatal("compose.yaml has no services")
	}
	return file.Services
}

func read(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(folder + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestServicesAreLockedDown(t *testing.T) {
	for name, s := range services(t) {
		if !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s keeps privileges: %q %q", name, s.CapDrop, s.SecurityOpt)
		}
		if !s.ReadOnly && name != "hapi" { // whose image writes into its own folders
			t.Errorf("%s may write to its root file system", name)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s to other machines", name, p)
			}
		}
		for variable, value := range s.Environment {
			secret := strings.Contains(variable, "PASSWORD") || strings.Contains(variable, "KEY")
			if secret && !regexp.MustCompile(`^\$\{\w+:\?.+\}$`).MatchString(value) {
				t.Errorf("%s has a value of its own for %s", name, variable)
			}
		}
	}
}

// Every file that a service is given is there, and every gateway is known to
// those who must know it.
func TestServicesFitTogether(t *testing.T) {
	all := services(t)
	for name, s := range all {
		for _, v := range s.Volumes {
			if from, _, _ := strings.Cut(v, ":"); strings.HasPrefix(from, "./") {
				if _, err := os.Stat(folder + from); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	var gateways []string
	for name := range all {
		if strings.HasPrefix(name, "gateway-") {
			gateways = append(gateways, name)
		}
	}
	slices.Sort(gateways)
	if len(gateways) != 3 {
		t.Fatalf("gateways %q", gateways)
	}

	balancer, err := os.ReadFile(folder + "haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	var balanced []string
	for _, m := range regexp.MustCompile(`(?m)^\s+server (\S+) (\S+):8088$`).FindAllStringSubmatch(string(balancer), -1) {
		balanced = append(balanced, m[2])
	}
	if !slices.Equal(balanced, gateways) {
		t.Errorf("the balancer knows %q, not %q", balanced, gateways)
	}

	var prometheus struct {
		Scrape []struct {
			Static []struct {
				Targets []string `yaml:"targets"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	read(t, "prometheus.yml", &prometheus)
	for i, g := range gateways {
		if got := prometheus.Scrape[0].Static[0].Targets[i]; got != g+":8089" {
			t.Errorf("Prometheus scrapes %s, not %s", got, g)
		}
	}

	var config struct {
		Upstream struct{ URL string }
		Server   struct {
			Drain string `yaml:"drain"`
			Grace string `yaml:"shutdown_grace"`
		}
		Store struct{ Redis struct{ URL string } }
	}
	read(t, "compose.spillway.yaml", &config)
	for _, address := range []string{config.Upstream.URL, config.Store.Redis.URL} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := all[u.Hostname()]; !ok {
			t.Errorf("%s is no service", address)
		}
	}
	drain, grace, stop := duration(t, config.Server.Drain), duration(t, config.Server.Grace), duration(t, all["gateway-1"].StopGrace)
	if drain+grace >= stop {
		t.Errorf("a gateway is killed after %s, but may need %s to stop", stop, drain+grace)
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// spillway understands the configurations: it finds nothing wrong with them and
// fails only because it cannot reach what they name.
func TestConfigurations(t *testing.T) {
	binary, err := process.Build(t.TempDir(), "spillway/cmd/spillway")
	if err != nil {
		t.Fatal(err)
	}
	secrets := t.TempDir()
	for name, text := range map[string]string{
		"redis-password": "made-up\n", "upstream-authorization": "made-up\n", "audit-key": strings.Repeat("made-up ", 8), "signing.pem": signingKey(t),
	} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"compose.spillway.yaml", "spillway.example.yaml"} {
		t.Run(name, func(t *testing.T) {
			config := edited(t, name)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := process.Command(ctx, binary, "serve", "--config", config)
			cmd.Env = append(cmd.Env, "CREDENTIALS_DIRECTORY="+secrets, "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "AWS_EC2_METADATA_DISABLED=true")
			output, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("it did not end: %v\n%s", err, output)
			}
			if text := string(output); strings.Contains(text, config+":") || !strings.Contains(text, "store.redis.url") || strings.Contains(text, "made-up") {
				t.Errorf("exit status %d\n%s", exit.ExitCode(), text)
			}
		})
	}
}

// signingKey is a private key in PEM.
func signingKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// edited is a copy of a configuration with addresses that can be listened on
// here, and a Redis that refuses connections.
func edited(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(folder + name)
	if err != nil {
		t.Fatal(err)
	}
	config := regexp.MustCompile(`(listen: \S+):\d+`).ReplaceAllString(string(text), "$1:0")
	config = regexp.MustCompile(`(rediss?)://[^/]+/`).ReplaceAllString(config, "$1://127.0.0.1:1/")
	copied := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(copied, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return copied
}
