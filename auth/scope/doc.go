// Package scope says what a client may read: from SMART scopes to the searches
// of an export. All of it is pure.
//
//	Parse, ParseList  text → Scope: type, permissions, query
//	NewGrant          scopes → Grant: what a client may do
//	Grant.Allows      a type and permissions → Access: all of it, or what some queries find, or nothing
//	Grant.Decide      a kick-off → Snapshot: what its job may read, fixed for its life
//	Grant.Covers      may this token still see what that snapshot let an export read?
//	Access.Searches   with the filters of a request → the searches to make
//	Access.Admits     is this resource one that may be read?
//	Interact          any other request → what it does; Grant.Permits says whether it may
//
// An export searches and returns what it finds, so it needs both r and s. The
// zero value of everything here permits nothing.
//
// A scope with a query restricts a type to what a search finds. Servers may
// ignore a parameter, so what a search returned is looked at again; a query
// that cannot be evaluated here counts only if the operator has said so.
// Source: SMART App Launch 2.2, Scopes and Launch Context.
package scope
