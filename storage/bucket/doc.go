// Package bucket keeps objects in the object storage of a cloud: S3 and what
// is compatible with it, Google Cloud Storage, Azure Blob Storage.
//
//	Open, ParseURL     a bucket by its URL; no request is made
//	Check, CheckLinks  what a start-up finds out, told in sentences with what to do
//	writer             fills 5 MiB -> sends it in parts, one on its way while the next is filled -> commits
//	reader             a range of an object, asked for again where a connection broke
//	Compose, Link      one object of many, and a URL for it
//	try                every request: again after trouble that may pass, for MaxOutage
//	service            what the three differ in; gocloud.dev/blob does what they have in common
//
// # URLs
//
//	s3://exports?region=eu-central-1                                        AWS
//	s3://exports?region=us-east-1&endpoint=https://minio.example.org:9000&use_path_style=true
//	                                                                        MinIO, Ceph, versitygw
//	gs://exports                                                            Google Cloud Storage
//	azblob://exports?storage_account=acct                                   Azure
//	azblob://exports?localemu=true&protocol=http&domain=127.0.0.1:10000     Azurite
//
// To each &prefix=folder/ may be added: all keys are below it, and nothing
// beside it is listed or deleted. The other parameters are those of
// gocloud.dev: for s3 profile, role, ssetype (AES256, aws:kms), kmskeyid,
// accelerate, dualstack, fips and more; for gs access_id and private_key_path
// (who signs links), universe_domain, anonymous; for azblob domain, protocol,
// cdn. The emulator of GCS is found by STORAGE_EMULATOR_HOST (host:port).
//
// # Credentials
//
// They come from the environment, never from the URL.
//
//	S3     AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; AWS_PROFILE; a web identity; the role of the machine or pod
//	GCS    GOOGLE_APPLICATION_CREDENTIALS (a file); what gcloud has stored; the account of the machine or pod
//	Azure  AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING; else a managed
//	       identity, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET
//
// What they must be allowed to do:
//
//	S3     s3:ListBucket, s3:ListBucketMultipartUploads on the bucket; s3:GetObject, s3:PutObject, s3:DeleteObject,
//	       s3:AbortMultipartUpload on its objects; for Check's warnings s3:GetBucketVersioning, s3:GetLifecycleConfiguration;
//	       with kmskeyid kms:GenerateDataKey and kms:Decrypt on that key
//	GCS    the role Storage Object Admin on the bucket; for Check's warnings storage.buckets.get; to sign links without a key of
//	       its own Service Account Token Creator on itself
//	Azure  the role Storage Blob Data Contributor on the container, to sign links without the key of the account Storage Blob
//	       Delegator on the account; or a SAS with the permissions rwdlc, which cannot sign links
//
// # Settings of the bucket
//
// No public access. No versioning, no soft delete, no retention policy: they
// keep what an export has deleted; Check warns of those it can see. On S3 a
// lifecycle rule AbortIncompleteMultipartUpload of a day or two: what a killed
// process had sent of an object is invisible, paid for, and removed only by
// RemoveAll of its folder (MinIO does not list uploads by folder, and removes
// them by itself after a day) or by this rule. GCS and Azure forget such parts
// after a week. Objects that exports leave are removed by the sweeper; a rule
// that expires all objects some days after the retention is a second net.
//
// # Objects
//
// They are stored as application/octet-stream, without Content-Encoding: with
// it, clients of GCS and Azure inflate them and ranges break. Each has a
// random mark of its writer in its metadata, so that a writer whose answer was
// lost knows its own object. The request that makes one visible carries the
// condition that its key is free (If-None-Match, generation 0), so two writers
// cannot overwrite each other. A service that answers that it does not know
// the condition is asked for the key before; then two writers at the same
// moment are not seen. Check warns of it, and of one that ignores the
// condition.
//
// A writer has at most two buffers of 5 MiB. What fits one is stored by one
// request at Commit. An object has at most 10,000 parts, about 49 GiB.
// Payloads are signed where there is no TLS, and not hashed where there is.
//
// # Composing
//
//	S3     a multipart upload. Ranges of 5 MiB and more are copied by the service (UploadPartCopy, at most 512 MiB each). What is
//	       smaller is read and written with its neighbours: at most 5 MiB for each range that follows a small one.
//	Azure  a block list. Every range is copied by the service (Put Block From URL); literal bytes are blocks of their own.
//	GCS    whole objects are composed by the service, 32 by a request, more of them by way of one object KEY.composing beside.
//	       It cannot copy ranges, so a composition with ranges or literal bytes is read and written again by us, 5 MiB at a time.
//
// S3 and Azure services that do not know how to copy a range are treated as
// GCS is. The composed object itself has the media type, encoding and name
// that links deliver, because GCS cannot override the encoding in a link; it
// is never read by us. A link is good for its ttl, but on S3 no longer than
// the session of temporary credentials, and on all of them no longer than the
// object.
//
// # Trouble
//
// Answers 429 and 5xx, broken connections, and requests that move no byte for
// 30 s are tried again with growing pauses, until MaxOutage has passed since
// the first; then the error says what was answered and for how long. Refusals
// (403, no such bucket) are returned at once. Errors name the bucket, never a
// key, an address with its query, or a credential; only those of Check quote
// the service's own sentence. A bucket that is full (507, a quota) is
// storage.ErrFull, also of Ready and Create for some seconds after.
//
// It is built with -tags disable_grpc_modules, which leaves out the parts of
// the Google client that only gRPC needs; it works the same without.
package bucket
