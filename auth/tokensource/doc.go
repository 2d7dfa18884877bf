// Package tokensource has the gateway's own credential for the upstream.
//
//	Header, Basic         a fixed one
//	NewClientCredentials  an access token, fetched with private_key_jwt and kept fresh
//	Transport             adds the credential to requests to the upstream, and to no others
//	KeysHandler           publishes the public halves of our keys
//
// Client certificates are for package keypair and the TLS configuration of the
// transport.
//
// A credential is in memory only. It goes to one origin, which is the
// configured one: a request to another is not made. Nothing here follows a
// redirect. No error and no printed value holds a credential.
//
// A token is fetched again when a fifth of its life is left, by one request for
// all that need it, while the old one is still used; and once more when the
// upstream has refused it.
// Source: SMART App Launch 2.2, Backend Services.
package tokensource
