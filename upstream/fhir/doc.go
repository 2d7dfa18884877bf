// Package fhir holds the words of the wire that the rest of Spillway shares.
// Resources stay raw bytes: nothing here decodes one into a tree, so decimals
// such as 1.10, long integers and member order survive.
//
//	ScanBundle        streams a page: one entry in memory at a time, with limits
//	ReadResource      one resource from a body, with the same limits
//	ReadHeader        resourceType, id and meta of a resource
//	AppendLine        a resource as one NDJSON line
//	LineChecker       lines of NDJSON from outside; ReadDeletions, of those that list what is gone
//	Subset            a resource cut down to the elements asked for (_elements)
//	Outcome           writes an OperationOutcome; ReadOutcome reads one
//	ReadParameters    the body of a kick-off by POST
//	ReadGroup         the members of a Group
//	ReadCapabilities  a capability statement, as far as Spillway needs it
//	MergeCapabilities the same statement with the export operations in it
//	EachReference     every reference of a resource, wherever it stands
//	Release           the Patient compartment of a release of FHIR: which patients' a resource is in
//	ParseInstant      instants, dates, ids, references and type names
//
// Bytes from outside are checked once, where they come in: ScanBundle,
// ReadResource and the readers of whole documents. jsontext checks, but entries
// of a Bundle are first tried by a scanner of our own that is several times
// faster and accepts nothing that jsontext would not. What works on
// one resource (ReadHeader, AppendLine, Subset, References, Release.PatientRefs)
// expects bytes that were checked so; on others it returns an error or a
// result of no meaning, but does not panic.
//
// No error text of this package holds a value from the document.
package fhir
