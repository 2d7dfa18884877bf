package fakefhir

// The words that Generate draws from. Names and notes are JSON strings without
// their quotes, so that escapes in every spelling reach the output.

var familyNames = []string{
	"Meyer", "O'Brien", `M\u00fcller`, "Müller", "Ångström", "Łukaszewicz", "Nguyễn", "山田", "Петрова", "García-López",
	`Smith \"Smitty\"`, "van der Berg", "Öztürk", "Al-Masri", "Kovačević", `D\u2019Angelo`, "Brown", "Papadopoulos",
}

var givenNames = []string{
	"Zoë", "José", "太郎", "Anna-Lena", "Björk", `Ren\u00e9e`, "Mary", "Søren", "Ольга", "Chloé", "Ahmed", "Ines",
	"Łucja", "Peter", "Nuala", "Mateo",
}

var cities = []string{"Zürich", "Gdańsk", "København", "Galway", "São Paulo", "Springfield", "京都", "Malmö"}

var notes = []string{
	"No complaints.",
	`Patient reports \"stabbing\" pain; see C:\\notes\\2024.`,
	`Line one\nLine two\tafter a tab`,
	`Temperature < 38 \u00b0C & > 36 \u00b0C`,
	`Feels better \ud83d\ude42 than last week`,
	"Fühlt sich besser 🙂 als letzte Woche",
	`See http:\/\/example.org\/guideline`,
	`A zero-width\u200bspace and a BOM-like \ufeff mark`,
}

// term is a code of a code system.
type term struct{ code, display string }

var conditions = []term{
	{"38341003", "Hypertensive disorder"}, {"44054006", "Diabetes mellitus type 2"}, {"195662009", "Acute viral pharyngitis"},
	{"10509002", "Acute bronchitis"}, {"444814009", "Viral sinusitis"}, {"271737000", "Anemia"}, {"162864005", "Body mass index 30+ - obesity"},
	{"40055000", "Chronic sinusitis"}, {"55822004", "Hyperlipidemia"}, {"82423001", "Chronic pain"}, {"62106007", "Concussion with no loss of consciousness"},
}

var procedures = []term{
	{"430193006", "Medication reconciliation"}, {"710824005", "Assessment of health and social care needs"}, {"117015009", "Throat culture"},
	{"171207006", "Depression screening"}, {"103697008", "Patient referral for dental care"}, {"23426006", "Measurement of respiratory function"},
	{"76601001", "Intramuscular injection"}, {"274804006", "Evaluation of uterine fundal height"}, {"225158009", "Auscultation of the fetal heart"},
}

var drugs = []term{
	{"314076", "lisinopril 10 MG Oral Tablet"}, {"860975", "24 HR Metformin hydrochloride 500 MG Extended Release Oral Tablet"},
	{"308136", "amlodipine 2.5 MG Oral Tablet"}, {"314231", "Simvastatin 10 MG Oral Tablet"}, {"198405", "Ibuprofen 100 MG Oral Tablet"},
	{"313782", "Acetaminophen 325 MG Oral Tablet"}, {"308182", "Amoxicillin 250 MG Oral Capsule"},
}

var vaccines = []term{
	{"140", "Influenza, seasonal, injectable, preservative free"}, {"113", "Td (adult) preservative free"}, {"08", "Hep B, adolescent or pediatric"},
	{"133", "Pneumococcal conjugate PCV 13"}, {"208", "COVID-19, mRNA, LNP-S, PF, 30 mcg/0.3 mL dose"},
}

var allergens = []term{
	{"227493005", "Cashew nuts"}, {"419263009", "Tree pollen"}, {"91935009", "Peanut"}, {"260147004", "House dust mite"}, {"7980", "Penicillin G"},
}

var reports = []term{
	{"51990-0", "Basic Metabolic Panel"}, {"57698-3", "Lipid Panel"}, {"58410-2", "Complete blood count (hemogram) panel"},
}

var documents = []term{
	{"34117-2", "History and physical note"}, {"11506-3", "Progress note"}, {"18842-5", "Discharge summary"},
}

var specialties = []term{
	{"394802001", "General medicine"}, {"394579002", "Cardiology"}, {"394537008", "Pediatric specialty"}, {"394609007", "Surgery-general"},
}

// measurement is something that an Observation measures.
type measurement struct {
	term
	unit, ucum string
	low, high  float64
	digits     int // after the decimal point
	lab        bool
}

var measurements = []measurement{
	{term{"8302-2", "Body height"}, "cm", "cm", 140, 200, 1, false},
	{term{"29463-7", "Body weight"}, "kg", "kg", 45, 130, 2, false},
	{term{"39156-5", "Body mass index (BMI)"}, "kg/m2", "kg/m2", 17, 42, 2, false},
	{term{"8867-4", "Heart rate"}, "/min", "/min", 50, 110, 0, false},
	{term{"9279-1", "Respiratory rate"}, "/min", "/min", 10, 24, 0, false},
	{term{"8310-5", "Body temperature"}, "°C", "Cel", 36, 40, 1, false},
	{term{"2708-6", "Oxygen saturation in Arterial blood"}, "%", "%", 88, 100, 1, false},
	{term{"2339-0", "Glucose"}, "mg/dL", "mg/dL", 60, 220, 2, true},
	{term{"4548-4", "Hemoglobin A1c"}, "%", "%", 4, 12, 2, true},
	{term{"2160-0", "Creatinine"}, "mg/dL", "mg/dL", 0.5, 3, 2, true},
	{term{"718-7", "Hemoglobin"}, "g/dL", "g/dL", 9, 18, 1, true},
	{term{"6690-2", "Leukocytes"}, "10*3/uL", "10*3/uL", 3, 15, 3, true},
	{term{"2093-3", "Cholesterol"}, "mg/dL", "mg/dL", 120, 320, 2, true},
}
