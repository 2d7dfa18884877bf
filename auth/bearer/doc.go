// Package bearer accepts the access tokens of other issuers.
//
//	NewJWT            signed tokens, verified with the issuer's published keys
//	NewIntrospection  tokens of any kind, by asking the issuer about each (RFC 7662)
//
// Both start without the issuer: as long as it is out of reach they answer
// auth.ErrUnavailable, and Ready says why. A token without a scope grants
// nothing, and so does a scope that is malformed.
//
// Introspected tokens are remembered for a while, by their hash. That while is
// how long a token that was revoked is still accepted.
package bearer
