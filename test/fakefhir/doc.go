// Package fakefhir is a fake FHIR R4 server that behaves like HAPI, with
// synthetic patients, a log of what was asked, and scripted faults.
package fakefhir
