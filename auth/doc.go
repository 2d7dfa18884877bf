// Package auth says who asks. It decides and never answers: the errors are
// values, and package gateway writes them as responses.
//
//	Authenticator  a request → the Principal that sent it
//	None           everybody is the same, nameless principal
//
// None serves development and networks that are guarded elsewhere. Verifying
// bearer tokens against a key set, asking an introspection endpoint, issuing
// tokens by SMART Backend Services and reading client certificates are further
// Authenticators; a Principal then also carries what the client may read.
package auth
