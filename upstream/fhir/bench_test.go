package fhir

import (
	"bytes"
	"fmt"
	"testing"
)

// observation returns a resource of about 1 kB, as a server would send it.
func observation(i int) string {
	return fmt.Sprintf(`{"resourceType":"Observation","id":"%d","meta":{"versionId":"1","lastUpdated":"2025-03-04T05:06:07.%03d+00:00",`+
		`"source":"#tUlrCRVQWcLXjPCU","profile":["http://hl7.org/fhir/us/core/StructureDefinition/us-core-vital-signs"]},"status":"final",`+
		`"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital signs"}]}],`+
		`"code":{"coding":[{"system":"http://loinc.org","code":"85354-9","display":"Blood pressure panel with all children optional"}],"text":"Blood pressure"},`+
		`"subject":{"reference":"Patient/%d"},"encounter":{"reference":"Encounter/%d"},"effectiveDateTime":"2016-07-09T15:08:23+00:00","issued":"2016-07-09T15:08:23.913+00:00",`+
		`"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4","display":"Diastolic Blood Pressure"}],"text":"Diastolic"},"valueQuantity":{"value":78.10,"unit":"mm[Hg]",`+
		`"system":"http://unitsofmeasure.org","code":"mm[Hg]"}}]}`, i, i%1000, i%97, i)
}

func page(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"resourceType":"Bundle","id":"x","type":"searchset","total":100000,"link":[{"relation":"self","url":"http://h/fhir/Observation?_count=1000"},{"relation":"next","url":"http://h/fhir?_getpages=1"}],"entry":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"fullUrl":"http://localhost:8080/fhir/Observation/%d","resource":%s,"search":{"mode":"match"}}`, i, observation(i))
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

func BenchmarkScanBundle(b *testing.B) {
	p := page(1000)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ScanBundle(bytes.NewReader(p), ScanLimits{}, func(*Entry) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScanBundleToLines(b *testing.B) {
	p := page(1000)
	var out []byte
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		out = out[:0]
		_, err := ScanBundle(bytes.NewReader(p), ScanLimits{}, func(e *Entry) (err error) {
			out, err = AppendLine(out, e.Resource)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadHeader(b *testing.B) {
	r := []byte(observation(7))
	b.SetBytes(int64(len(r)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadHeader(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendLine(b *testing.B) {
	r := []byte(observation(7))
	var out []byte
	b.SetBytes(int64(len(r)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if out, err = AppendLine(out[:0], r); err != nil {
			b.Fatal(err)
		}
	}
}
