// Package builtin is an authorisation server for SMART Backend Services: small
// enough to stand inside the gateway, so that a hospital that has none needs
// none.
//
//	New                  clients of the configuration, and our keys
//	Server.TokenHandler  a client's assertion → an access token
//	Server.Authenticate  an access token → auth.Principal; it is an auth.Authenticator
//	Server.SetClients    the configuration has changed
//
// An access token is a JSON web token that any replica verifies by itself.
// Therefore all replicas must sign with the same key: one in a file, given to
// each of them. It is a file and not a secret from which a key is derived,
// because the usual tools make, guard and replace such a file. A single process
// may do with token.NewSigningKey; its tokens end with it, and clients fetch
// others. To replace the key without a pause, first make the new one known to
// all replicas behind the old one, then put it first, and drop the old one when
// its last tokens have expired.
//
// An assertion is accepted once. All replicas share the record of those that
// were used, and none is accepted while the record is out of reach.
//
// A client that is unknown or disabled, a bad signature and everything else
// that is wrong with an assertion look the same from outside: in status and
// body, and roughly in time.
// Sources: SMART App Launch 2.2, Backend Services; RFC 6749, 6750, 7521, 7523.
package builtin
