package testenv

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// A Bucket is an empty bucket of an object storage service that runs, on the
// loopback interface, for as long as a test.
type Bucket struct {
	// Address is the host:port at which the service listens.
	Address string
	// Env has what a process needs besides the URL to open the bucket, as
	// NAME=value. It is set in the process of the test too.
	Env []string
	// Folder is where the service keeps its files; empty for services that
	// keep them otherwise.
	Folder string

	url func(address string) string
}

// URL opens the bucket. A prefix of its own, such as "a/", makes several
// stores of one bucket.
func (b *Bucket) URL(prefix string) string { return b.At(b.Address, prefix) }

// At is URL at another address, that of a proxy before the service. It does
// not work for GCS, which is found by an environment variable.
func (b *Bucket) At(address, prefix string) string {
	u := b.url(address)
	if prefix != "" {
		u += "&prefix=" + prefix
	}
	return u
}

const (
	bucketName = "exports"
	s3Key      = "test-access-key"
	s3Secret   = "test-secret-key"

	// The account that Azurite has built in; its key is public.
	azuriteAccount = "devstoreaccount1"
	azuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// S3 starts versitygw and makes a bucket in it. flags are added to those of
// its posix back end.
func S3(t testing.TB, flags ...string) *Bucket {
	t.Helper()
	program := find(t, "versitygw", "s3", "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, bucketName), 0o700); err != nil {
		t.Fatal(err)
	}
	b := &Bucket{
		Folder: folder,
		Env: []string{
			"AWS_ACCESS_KEY_ID=" + s3Key, "AWS_SECRET_ACCESS_KEY=" + s3Secret,
			// The files of whoever runs the tests are none of their business.
			"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
			"AWS_EC2_METADATA_DISABLED=true",
		},
		url: func(address string) string {
			return "s3://" + bucketName + "?region=us-east-1&use_path_style=true&endpoint=http://" + address
		},
	}
	setenv(t, b.Env)
	b.Address = serve(t, []string{"ROOT_ACCESS_KEY=" + s3Key, "ROOT_SECRET_KEY=" + s3Secret}, func(address string) *exec.Cmd {
		args := append([]string{"--port", address, "--keep-alive", "--quiet", "posix"}, flags...)
		return exec.Command(program, append(args, folder)...)
	})
	return b
}

// GCS starts fake-gcs-server, which checks no credentials and no signatures,
// and makes a bucket in it.
func GCS(t testing.TB) *Bucket {
	t.Helper()
	program := find(t, "fake-gcs-server", "gcs", "go install github.com/fsouza/fake-gcs-server@v1.56.1")
	key := signingKey(t)
	b := &Bucket{url: func(string) string {
		return "gs://" + bucketName + "?access_id=tests@example.org&private_key_path=" + key
	}}
	b.Address = serve(t, nil, func(address string) *exec.Cmd {
		host, port, _ := net.SplitHostPort(address)
		return exec.Command(program, "-scheme", "http", "-host", host, "-port", port, "-backend", "memory",
			"-public-host", address, "-external-url", "http://"+address, "-log-level", "warn")
	})
	b.Env = []string{"STORAGE_EMULATOR_HOST=" + b.Address}
	setenv(t, b.Env)
	response, err := http.Post("http://"+b.Address+"/storage/v1/b?project=test", "application/json",
		strings.NewReader(`{"name":"`+bucketName+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("fake-gcs-server made no bucket: %s", response.Status)
	}
	return b
}

// signingKey makes a key by which links are signed, and returns its file.
func signingKey(t testing.TB) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Azure starts Azurite's blob service and makes a container in it. Starting
// takes a second or two.
func Azure(t testing.TB) *Bucket {
	t.Helper()
	program := find(t, "azurite-blob", "azure", "npm install azurite@3.37, with node_modules/.bin on PATH")
	folder := t.TempDir()
	b := &Bucket{
		Folder: folder,
		Env:    []string{"AZURE_STORAGE_ACCOUNT=" + azuriteAccount, "AZURE_STORAGE_KEY=" + azuriteKey},
		url: func(address string) string {
			return "azblob://" + bucketName + "?localemu=true&protocol=http&domain=" + address
		},
	}
	setenv(t, b.Env)
	b.Address = serve(t, nil, func(address string) *exec.Cmd {
		host, port, _ := net.SplitHostPort(address)
		cmd := exec.Command(program, "--blobHost", host, "--blobPort", port, "--location", folder,
			"--skipApiVersionCheck", "--silent", "--disableTelemetry")
		cmd.Dir = folder
		return cmd
	})
	cred, err := container.NewSharedKeyCredential(azuriteAccount, azuriteKey)
	if err != nil {
		t.Fatal(err)
	}
	client, err := container.NewClientWithSharedKeyCredential("http://"+b.Address+"/"+azuriteAccount+"/"+bucketName, cred, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := client.Create(ctx, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// find looks a server up on PATH.
func find(t testing.TB, program, need, how string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		Skip(t, need, program+" is not on PATH ("+how+")")
	}
	return path
}

func setenv(t testing.TB, env []string) {
	t.Helper()
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
}

// serve starts a server on a free port of the loopback interface, waits until
// it listens, and ends it with the test. A port that somebody else took
// between is given up for another.
func serve(t testing.TB, env []string, command func(address string) *exec.Cmd) (address string) {
	t.Helper()
	const tries = 3
	for range tries {
		address = freeAddress(t)
		cmd := command(address)
		cmd.Env = append(cmd.Environ(), env...)
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that its children end with it
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		stop := func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		err := listening(address, ended)
		if err == nil {
			t.Cleanup(stop)
			return address
		}
		stop()
		t.Logf("%s: %v\n%s", filepath.Base(cmd.Path), err, output.String())
	}
	t.Fatalf("the server did not start in %d tries", tries)
	return ""
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// listening waits until a server takes connections.
func listening(address string, ended <-chan struct{}) error {
	const patience = 60 * time.Second // Azurite beside a busy build
	deadline := time.After(patience)
	for {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			return c.Close()
		}
		select {
		case <-ended:
			return errors.New("it ended")
		case <-deadline:
			return fmt.Errorf("it does not listen after %v", patience)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
