// Package jwks keeps the key sets of other servers: those of clients that
// register an address, and those of token issuers.
//
//	New          how sets are fetched, and how long they last
//	Cache.At     the set at one address, as token.Keys
//	Cache.At(u).Ready  for readiness: is there a set that can be used
//
// A set lasts as long as its Cache-Control says. A kid that is not in it makes
// the set be fetched again, so that keys can be changed without a restart, but
// an address is asked at most once in an interval, however many kids are made
// up. Each address is fetched apart from the others, by one request at a time,
// so one that hangs keeps nobody else waiting; the number of addresses is that
// of the configuration. An issuer's last good set may outlive an outage, for a
// bounded time; a client's may not.
// Source: SMART App Launch, Client Authentication: Asymmetric, "Signature
// Verification".
package jwks
