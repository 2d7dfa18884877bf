// Package fetch asks other servers for small documents: key sets, discovery,
// tokens, introspection.
//
//	New        which servers may be asked, and how
//	Client.Do  one request, one bounded answer
//
// A Client follows no redirect, takes no proxy from the environment, inflates
// nothing, and ends every request within its timeout. Addresses are checked
// when the connection is made, after the name was resolved, so a name that
// changes its mind leads nowhere. No error holds a path, a query, a header or
// a body.
package fetch
