// Package auth says who asks, and what they may read. It decides and never
// answers: the errors are values, and package gateway writes them as
// responses, with the Challenge of each.
//
//	Authenticator  a request → the Principal that sent it
//	None           everybody is the same, nameless principal
//	Restrict       an Authenticator, and what the configuration says of its clients
//	Challenge      an error → WWW-Authenticate
//
// Below it:
//
//	scope          from SMART scopes to the searches of an export
//	token          JSON web tokens and their keys; the only room of jwx
//	jwks           key sets of other servers
//	fetch          small documents of other servers
//	keypair        a TLS certificate that is renewed without a restart
//	smart          the discovery document of SMART
//	builtin        an authorisation server of our own, for SMART Backend Services
//	bearer         tokens of other issuers: by their keys, or by asking for each
//	mtls           client certificates
//	tokensource    our own credential for the upstream
//	audit          the record of all this
package auth
