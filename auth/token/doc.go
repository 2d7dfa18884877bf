// Package token reads, verifies and signs JSON web tokens, and reads the keys
// for it. It is stricter than the standards where those leave room, because
// what it lets through opens all of a hospital's records.
//
//	Parse             1 shape, 2 header, 3 claims: a Token that nobody has vouched for yet
//	KeySet, Keys      5 which key: one whose id and type fit, and no other of that id
//	Token.Verify      6 the signature, with one algorithm and one key
//	Assertions        client authentication (private_key_jwt): all of it, with 4 jku, 7 claims, 8 replay
//	AccessPolicy      an access token of an issuer that we trust: 1 to 3 and 5 to 7
//	SigningKey        our own keys, and what they sign
//
// The errors are Refused, with a reason for logs and audit, or wrap
// auth.ErrUnavailable; a caller is told no reason. No text of an error holds
// anything of a token.
//
// Only this package uses jwx, and only for the signature and for the numbers
// of a key. Its defaults accept much that must be refused (keys of any kind,
// unlimited lifetimes, members twice), so everything around it is read here.
// Sources: RFC 7515, 7517, 7518, 7519, 7523, 8725; SMART App Launch 2.2,
// Client Authentication: Asymmetric.
package token
