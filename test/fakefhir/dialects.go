package fakefhir

import "time"

// noCounts are the parameters that say how to answer which record systems do
// not know.
var noCounts = []string{"_summary", "_total", "_sort", "_elements", "_has", "_lastUpdated"}

// byCompartment are the parameters by which a resource is found by a patient
// but "patient" itself.
var byCompartment = []string{
	"subject", "performer", "recorder", "asserter", "author", "participant", "member", "beneficiary", "subscriber", "policy-holder", "payor", "link",
}

// dialects are the servers that can be played. Where nothing is said a server
// is as HAPI.
var dialects = map[string]dialect{
	"hapi": {
		software: "HAPI FHIR Server", version: "8.10.0", description: "HAPI FHIR R4 Server",
		linkLife: time.Hour,
	},
	"microsoft": {
		software: "Azure Healthcare APIs", version: "4.0.510", publisher: "Microsoft",
		pageDefault: 10, pageMax: 1000, linkPath: "/{type}", token: "ct",
		total: totalIfAsked, unknown: unknownWarned, strict: true,
		noDirect: true, historyTimes: true, emptyFirst: true,
	},
	"google": {
		software: "Google Cloud Healthcare API FHIR store", publisher: "Google",
		pageDefault: 100, pageMax: 1000, linkPath: "/{type}", token: "_page_token",
		total: totalEstimate, estimates: true, unknown: unknownIgnored, strict: true,
		noForms: true, noDirect: true, noSystem: true, historyTimes: true,
	},
	"firely": {
		software: "Firely Server", version: "5.11.0", publisher: "Firely",
		pageDefault: 10, pageMax: 50, token: "_query", linkLife: 10 * time.Minute,
		total: totalIfAsked, unknown: unknownIgnored, strict: true,
		postLinks: true, noDirect: true, historyTimes: true,
	},
	"blaze": {
		software: "Blaze", version: "1.0.0", publisher: "Samply",
		pageDefault: 50, pageMax: 10_000, linkPath: "/{type}/__page", token: "__token", linkLife: time.Hour,
		unknown: unknownIgnored, strict: true,
		noDirect: true, historyTimes: true,
	},
	"linuxforhealth": {
		software: "LinuxForHealth FHIR Server", version: "5.1.1",
		pageDefault: 10, pageMax: 1000, numbered: "_page",
		unknown: unknownIgnored, strict: true,
		noDirect: true, historyTimes: true,
	},
	"medplum": {
		software: "medplum", version: "3.2.0", publisher: "Medplum",
		pageDefault: 20, pageMax: 1000, numbered: "_offset", offsetMax: 10_000,
		total: totalIfAsked, unknown: unknownRefused,
		noDirect: true, noSystem: true, historyTimes: true,
	},
	"cerner": {
		publisher: "Cerner", description: "Cerner implementation of FHIR on top of Millennium",
		pageDefault: 50, pageMax: 200, pageMaxOf: map[string]int{"Patient": 100}, linkPath: "/{type}", token: "pageContext", suffix: "&direction=NEXT",
		total: totalNever, unknown: unknownIgnored, hidden: append([]string{"performer", "recorder", "asserter", "author", "participant", "member", "link"}, noCounts...),
		needs: map[string][][]string{
			"":          {{"_id"}, {"patient"}, {"subject"}},
			"Patient":   {{"_id"}, {"identifier"}, {"name"}, {"family"}, {"given"}, {"birthdate"}},
			"Encounter": {{"_id"}, {"patient"}, {"subject"}, {"identifier"}},
		},
		matchMax: map[string]int{"Patient": 1000}, urlMax: 4000,
		unsearchable: []string{"Group", "Medication"},
		noPost:       true, noDirect: true, noHistory: true, noSystem: true,
		contentType: "application/json+fhir", overlap: 1,
	},
	"epic": {
		software: "Epic", version: "November 2025", description: "The Epic FHIR server",
		pageDefault: 100, pageMax: 1000, linkPath: "/{type}", token: "sessionID",
		total: totalNever, unknown: unknownWarned, hidden: append(append([]string{}, byCompartment...), noCounts...),
		needs: map[string][][]string{
			"":            {{"_id"}, {"patient"}},
			"Patient":     {{"_id"}, {"identifier"}, {"family", "birthdate"}},
			"Observation": {{"_id"}, {"patient", "category"}, {"patient", "code"}},
			"Condition":   {{"_id"}, {"patient", "category"}},
			"Claim":       {{"_id"}, {"patient", "use"}},
		},
		patients: 1, urlMax: 4000,
		noPost: true, noDirect: true, noHistory: true, noSystem: true,
	},
}
