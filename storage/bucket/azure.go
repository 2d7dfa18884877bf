package bucket

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	azservice "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	"gocloud.dev/blob"
	"gocloud.dev/blob/azureblob"

	"spillway/storage"
)

// tokenScope is for what Azure asks of another of its services on our behalf.
const tokenScope = "https://storage.azure.com/.default"

// An azureService speaks to Azure Blob Storage.
type azureService struct {
	s       *Store
	client  *container.Client
	account *azservice.Client // nil if the account is out of reach, as with a SAS
	// cred is set where no key and no SAS is: a managed identity or the like.
	cred      azcore.TokenCredential
	transport *http.Transport

	mu      sync.Mutex // guards the following
	signer  *azservice.UserDelegationCredential
	expires time.Time // of signer
}

func (s *Store) openAzure(ctx context.Context, u *url.URL) error {
	b := &azureService{s: s}
	opener := azureblob.URLOpener{
		MakeClient:        b.open,
		ServiceURLOptions: *azureblob.NewDefaultServiceURLOptions(),
	}
	q := u.Query()
	if q.Get("storage_account") == "" && opener.ServiceURLOptions.AccountName == "" {
		return errors.New("no storage account: set AZURE_STORAGE_ACCOUNT, or add storage_account=… to the URL")
	}
	var err error
	s.bucket, err = opener.OpenBucketURL(ctx, u)
	s.service = b
	return err
}

// open makes the client from the environment, by the variables and in the
// order of azureblob, whose own function takes no options.
func (b *azureService) open(account azureblob.ServiceURL, name azureblob.ContainerName) (*container.Client, error) {
	o := &container.ClientOptions{}
	o.Retry.MaxRetries = -1 // the store tries again itself
	b.transport = http.DefaultTransport.(*http.Transport).Clone()
	b.transport.MaxIdleConnsPerHost = connections
	b.transport.DisableCompression = true // what is stored is what is read
	o.Transport = &http.Client{Transport: b.transport}
	address, err := url.JoinPath(string(account), string(name))
	if err != nil {
		return nil, errors.New("the address of the account is malformed")
	}
	accountName, key := os.Getenv("AZURE_STORAGE_ACCOUNT"), os.Getenv("AZURE_STORAGE_KEY")
	connection := os.Getenv("AZURE_STORAGE_CONNECTION_STRING")
	if connection == "" {
		connection = os.Getenv("AZURE_STORAGEBLOB_CONNECTIONSTRING")
	}
	switch {
	case accountName != "" && key != "":
		cred, err := container.NewSharedKeyCredential(accountName, key)
		if err != nil {
			return nil, errors.New("AZURE_STORAGE_KEY is no key: it must be base64")
		}
		if b.account, err = azservice.NewClientWithSharedKeyCredential(string(account), cred, (*azservice.ClientOptions)(o)); err != nil {
			return nil, err
		}
		b.client, err = container.NewClientWithSharedKeyCredential(address, cred, o)
		return b.client, err
	case os.Getenv("AZURE_STORAGE_SAS_TOKEN") != "":
		b.client, err = container.NewClientWithNoCredential(address, o)
		return b.client, err
	case connection != "":
		b.client, err = container.NewClientFromConnectionString(connection, string(name), o)
		if err != nil {
			return nil, errors.New("AZURE_STORAGE_CONNECTION_STRING is malformed") // the error may repeat it
		}
		return b.client, nil
	}
	if b.cred, err = azidentity.NewDefaultAzureCredential(nil); err != nil {
		return nil, fmt.Errorf("no Azure credentials: set AZURE_STORAGE_KEY, or run with a managed identity (%w)", bare(err))
	}
	if b.account, err = azservice.NewClient(string(account), b.cred, (*azservice.ClientOptions)(o)); err != nil {
		return nil, err
	}
	b.client, err = container.NewClient(address, b.cred, o)
	return b.client, err
}

func (b *azureService) close() error {
	b.transport.CloseIdleConnections()
	return nil
}

// traits: a block may have any size, so every range is copied by the service.
func (b *azureService) traits() traits {
	const maxCopy = 256 << 20 // of 4000 MiB that are allowed
	return traits{minPart: 1, minCopy: 1, maxCopy: maxCopy, maxParts: 50_000, parallel: 8}
}

func azureHeaders(m meta) *azblob.HTTPHeaders {
	return &azblob.HTTPHeaders{
		BlobContentType: some(m.ContentType), BlobContentEncoding: some(m.ContentEncoding),
		BlobContentDisposition: disposition(m.Filename),
	}
}

func azureCondition(over bool) *azblob.AccessConditions {
	if over {
		return nil
	}
	any := azcore.ETagAny
	return &azblob.AccessConditions{ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfNoneMatch: &any}}
}

func (b *azureService) put(ctx context.Context, key string, content *payload, m meta, over bool, p *progress) error {
	_, err := b.client.NewBlockBlobClient(key).Upload(ctx, content.body(p), &blockblob.UploadOptions{
		HTTPHeaders: azureHeaders(m), AccessConditions: azureCondition(over), Metadata: map[string]*string{tagName: &m.tag},
	})
	return err
}

func (b *azureService) begin(_ context.Context, key string, m meta) (upload, error) {
	return &azureUpload{b: b, blob: b.client.NewBlockBlobClient(key), m: m, run: rand.Text(), blocks: map[int]string{}, copied: map[string]int64{}}, nil
}

// An azureUpload is a list of blocks. Those that are not committed are
// invisible, and removed by the service after a week.
type azureUpload struct {
	b    *azureService
	blob *blockblob.Client
	m    meta
	run  string // in the name of every block: another writer may stage its own for the same key

	mu     sync.Mutex
	blocks map[int]string
	copied map[string]int64 // bytes that a block should have
}

func (u *azureUpload) block(n int) string {
	id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%06d", u.run, n))
	u.mu.Lock()
	defer u.mu.Unlock()
	u.blocks[n] = id
	return id
}

func (u *azureUpload) part(ctx context.Context, n int, content *payload) error {
	id := u.block(n)
	return u.b.s.try(ctx, "writing a part of an object", func(ctx context.Context, p *progress) error {
		_, err := u.blob.StageBlock(ctx, id, content.body(p), nil)
		return err
	})
}

func (u *azureUpload) copy(ctx context.Context, n int, part storage.Part) error {
	id := u.block(n)
	u.mu.Lock()
	u.copied[id] = part.Length
	u.mu.Unlock()
	return u.b.s.try(ctx, "copying a part of an object", func(ctx context.Context, p *progress) error {
		p.slow()
		o := &blockblob.StageBlockFromURLOptions{Range: azblob.HTTPRange{Offset: part.Offset, Count: part.Length}}
		source, err := u.b.source(ctx, part.Key, o)
		if err != nil {
			return err
		}
		_, err = u.blob.StageBlockFromURL(ctx, id, source, o)
		return err
	})
}

// source names an object so that the service itself may read it.
func (b *azureService) source(ctx context.Context, key string, o *blockblob.StageBlockFromURLOptions) (string, error) {
	object := b.client.NewBlobClient(key)
	if b.cred != nil {
		token, err := b.cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{tokenScope}})
		if err != nil {
			return "", err
		}
		bearer := "Bearer " + token.Token
		o.CopySourceAuthorization = &bearer
		return object.URL(), nil
	}
	signed, err := object.GetSASURL(sas.BlobPermissions{Read: true}, time.Now().Add(time.Hour), nil)
	if errors.Is(err, bloberror.MissingSharedKeyCredential) {
		return object.URL(), nil // it has the SAS that we were given
	}
	return signed, err
}

func (u *azureUpload) commit(ctx context.Context, over bool) error {
	ids := make([]string, len(u.blocks))
	for i := range ids {
		ids[i] = u.blocks[i+1]
	}
	if err := u.checkCopied(ctx); err != nil {
		return err
	}
	return u.b.s.try(ctx, "completing an upload", func(ctx context.Context, p *progress) error {
		p.slow()
		_, err := u.blob.CommitBlockList(ctx, ids, &blockblob.CommitBlockListOptions{
			HTTPHeaders: azureHeaders(u.m), AccessConditions: azureCondition(over), Metadata: map[string]*string{tagName: &u.m.tag},
		})
		return err
	})
}

// checkCopied compares lengths: the service copies what there is of a range
// that ends beyond the end of its object.
func (u *azureUpload) checkCopied(ctx context.Context) error {
	if len(u.copied) == 0 {
		return nil
	}
	var list blockblob.GetBlockListResponse
	err := u.b.s.try(ctx, "listing the parts of an object", func(ctx context.Context, _ *progress) (err error) {
		list, err = u.blob.GetBlockList(ctx, blockblob.BlockListTypeUncommitted, nil)
		return err
	})
	if err != nil {
		return err
	}
	for _, block := range list.UncommittedBlocks {
		if block.Name == nil || block.Size == nil {
			continue
		}
		if want, ok := u.copied[*block.Name]; ok && want != *block.Size {
			return u.b.s.tooShort()
		}
	}
	return nil
}

func (u *azureUpload) abort(context.Context) error { return nil }

func (b *azureService) concat(context.Context, string, []storage.Part, meta) (bool, error) {
	return false, nil
}

func (b *azureService) remove(ctx context.Context, keys []string) error {
	return removeEach(ctx, keys, func(ctx context.Context, key string) error {
		return b.s.try(ctx, "removing an object", func(ctx context.Context, _ *progress) error {
			_, err := b.client.NewBlobClient(key).Delete(ctx, nil)
			return err
		})
	})
}

// sweep has nothing to do: blocks without a blob cannot be removed, only used.
func (b *azureService) sweep(context.Context, string) error { return nil }

func (b *azureService) link(ctx context.Context, key string, ttl time.Duration) (string, error) {
	if b.cred == nil {
		link, err := b.s.bucket.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: ttl, Method: http.MethodGet})
		if errors.Is(err, bloberror.MissingSharedKeyCredential) {
			return "", &failure{name: b.s.name, what: "signing a link", kind: permanent, answer: answer{err: bloberror.MissingSharedKeyCredential}}
		}
		return link, err
	}
	signer, err := b.delegation(ctx, ttl)
	if err != nil {
		return "", err
	}
	object := b.client.NewBlobClient(key)
	parts, err := sas.ParseURL(object.URL())
	if err != nil {
		return "", err
	}
	permissions := sas.BlobPermissions{Read: true}
	values, err := sas.BlobSignatureValues{
		ContainerName: parts.ContainerName, BlobName: parts.BlobName, Permissions: permissions.String(),
		ExpiryTime: time.Now().Add(ttl).UTC(),
	}.SignWithUserDelegation(signer)
	if err != nil {
		return "", err
	}
	return object.URL() + "?" + values.Encode(), nil
}

// delegation returns a key by which an identity without a key of the account
// signs links. It outlives a link that is signed now.
func (b *azureService) delegation(ctx context.Context, ttl time.Duration) (*azservice.UserDelegationCredential, error) {
	const day = 24 * time.Hour
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now().UTC()
	if b.signer != nil && now.Add(ttl).Before(b.expires) {
		return b.signer, nil
	}
	start, end := now.Add(-5*time.Minute).Format(sas.TimeFormat), now.Add(ttl+day)
	expiry := end.Format(sas.TimeFormat)
	signer, err := b.account.GetUserDelegationCredential(ctx, azservice.KeyInfo{Start: &start, Expiry: &expiry}, nil)
	if err != nil {
		return nil, err
	}
	b.signer, b.expires = signer, end
	return signer, nil
}
