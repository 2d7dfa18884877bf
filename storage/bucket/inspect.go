package bucket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const (
	warnVersions = "Versioning is on: deleting an export leaves its data as old versions. Turn it off, or let a lifecycle rule remove old versions after a day."
	warnUploads  = "There is no lifecycle rule AbortIncompleteMultipartUpload: what a killed process had sent of an object stays, invisible and paid for. Add one of a day or two."

	clockAdvice = "the clock of this machine differs from that of the service by more than 15 minutes: correct it"
)

func (b *s3Service) credentials(ctx context.Context) error {
	provider := b.client.Options().Credentials
	if provider == nil || aws.IsCredentialsProvider(provider, aws.AnonymousCredentials{}) {
		return nil
	}
	if _, err := provider.Retrieve(ctx); err != nil {
		return errors.New("no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, " +
			"or run with a role; what was tried ended with: " + bare(err).Error())
	}
	return nil
}

func (b *s3Service) inspect(ctx context.Context) (warnings []string) {
	versions, err := b.client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &b.name})
	if err == nil && versions.Status == types.BucketVersioningStatusEnabled {
		warnings = append(warnings, warnVersions)
	}
	rules, err := b.client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &b.name})
	switch {
	case err == nil && !abortsUploads(rules.Rules), err != nil && answerOf(err).code == "NoSuchLifecycleConfiguration":
		warnings = append(warnings, warnUploads)
	}
	return warnings
}

func abortsUploads(rules []types.LifecycleRule) bool {
	for _, r := range rules {
		if r.Status == types.ExpirationStatusEnabled && r.AbortIncompleteMultipartUpload != nil {
			return true
		}
	}
	return false
}

func (b *s3Service) advise(a answer, step string) string {
	switch a.code {
	case "InvalidAccessKeyId", "XAdminUserNotFound":
		return "the service does not know the access key: check AWS_ACCESS_KEY_ID"
	case "SignatureDoesNotMatch":
		return "the secret key does not belong to the access key: check AWS_SECRET_ACCESS_KEY"
	case "ExpiredToken", "InvalidToken":
		return "the session token is no longer good: renew AWS_SESSION_TOKEN, or use a role"
	case "NoSuchBucket":
		return "there is no such bucket: create it, or correct its name in the URL"
	case "RequestTimeTooSkewed":
		return clockAdvice
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		region := a.region
		if _, after, ok := strings.Cut(a.text, "expecting "); ok && region == "" {
			region = strings.Trim(after, `'".`)
		}
		if region != "" {
			return "the bucket is in the region " + region + ": correct region=… in the URL"
		}
		return "the region is wrong: correct region=… in the URL"
	case "AccessDenied", "Forbidden", "AllAccessDisabled":
		return "the credentials lack the permission " + s3Permission(step)
	case "", "UnknownError", "DeserializationError", "NotFound", "BadRequest", "MethodNotAllowed":
		if a.status != 0 && a.status < http.StatusInternalServerError {
			return "what answers there does not seem to be S3: correct endpoint=… in the URL, and use_path_style=true for most services that are not AWS"
		}
	}
	return ""
}

func s3Permission(step string) string {
	switch step {
	case "list":
		return "s3:ListBucket on the bucket"
	case "delete":
		return "s3:DeleteObject on its objects"
	case "upload in parts":
		return "s3:AbortMultipartUpload on its objects"
	case "write", "write to a taken key", "compose an object":
		return "s3:PutObject on its objects"
	}
	return "s3:GetObject on its objects"
}

// credentials were found when the client was made.
func (b *gcsService) credentials(context.Context) error { return nil }

func (b *gcsService) inspect(ctx context.Context) (warnings []string) {
	a, err := b.bucket.Attrs(ctx)
	if err != nil {
		return nil
	}
	if a.VersioningEnabled {
		warnings = append(warnings, warnVersions)
	}
	if p := a.SoftDeletePolicy; p != nil && p.RetentionDuration > 0 {
		warnings = append(warnings, fmt.Sprintf("Soft delete is on: a deleted export can be restored for %v. Turn it off with: gcloud storage buckets update --clear-soft-delete.", p.RetentionDuration))
	}
	if p := a.RetentionPolicy; p != nil && p.RetentionPeriod > 0 {
		warnings = append(warnings, fmt.Sprintf("The bucket has a retention policy of %v: an export cannot be deleted before. Use a bucket without one.", p.RetentionPeriod))
	}
	return warnings
}

func (b *gcsService) advise(a answer, step string) string {
	switch {
	case step == "sign links":
		return "links are signed by the key of a service account: use such a key (GOOGLE_APPLICATION_CREDENTIALS), or let the account sign for itself: " +
			"the role Service Account Token Creator on itself, the IAM Credentials API enabled, and access_id=… in the URL"
	case a.status == http.StatusUnauthorized:
		return "the credentials are not good: check the file that GOOGLE_APPLICATION_CREDENTIALS names"
	case a.code == "NoSuchBucket", a.status == http.StatusNotFound:
		return "there is no such bucket: create it, or correct its name in the URL"
	case a.status == http.StatusForbidden:
		return "the credentials lack a permission: give the account the role Storage Object Admin on the bucket"
	}
	return ""
}

func (b *azureService) credentials(ctx context.Context) error {
	if b.cred == nil {
		return nil
	}
	if _, err := b.cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{tokenScope}}); err != nil {
		return errors.New("no credentials were found: set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, " +
			"or run with a managed identity, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET")
	}
	return nil
}

func (b *azureService) inspect(ctx context.Context) (warnings []string) {
	if p, err := b.client.GetProperties(ctx, nil); err == nil {
		if p.HasImmutabilityPolicy != nil && *p.HasImmutabilityPolicy || p.HasLegalHold != nil && *p.HasLegalHold {
			warnings = append(warnings, "The container has an immutability policy or a legal hold: an export cannot be deleted before it ends. Use a container without one.")
		}
		if p.IsImmutableStorageWithVersioningEnabled != nil && *p.IsImmutableStorageWithVersioningEnabled {
			warnings = append(warnings, warnVersions)
		}
	}
	if b.account == nil {
		return warnings
	}
	p, err := b.account.GetProperties(ctx, nil)
	if err == nil && p.DeleteRetentionPolicy != nil && p.DeleteRetentionPolicy.Enabled != nil && *p.DeleteRetentionPolicy.Enabled {
		var kept time.Duration
		if p.DeleteRetentionPolicy.Days != nil {
			kept = time.Duration(*p.DeleteRetentionPolicy.Days) * 24 * time.Hour
		}
		warnings = append(warnings, fmt.Sprintf("Soft delete for blobs is on: a deleted export can be restored for %v. Turn it off for this account.", kept))
	}
	return warnings
}

func (b *azureService) advise(a answer, step string) string {
	switch bloberror.Code(a.code) {
	case bloberror.AuthenticationFailed:
		return "the key, token or SAS is not good for this account, or the clock of this machine is wrong: check AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY"
	case bloberror.ContainerNotFound:
		return "there is no such container: create it, or correct its name in the URL"
	case bloberror.AuthorizationFailure, bloberror.AuthorizationPermissionMismatch, bloberror.InsufficientAccountPermissions,
		bloberror.AuthorizationResourceTypeMismatch, bloberror.AuthorizationServiceMismatch:
		return "the key is not that of the account (check AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY), or a firewall is before it, or the credentials lack a permission: give the identity the role Storage Blob Data Contributor on the container, or the SAS the permissions rwdlc"
	}
	if step == "sign links" {
		return "links are signed by the key of the account (AZURE_STORAGE_KEY), or by an identity with the role Storage Blob Delegator; a SAS cannot sign"
	}
	return ""
}
