package gateway

// Where what belongs to authorization is served, below the FHIR base.
const (
	TokenPath  = "/auth/token"
	KeySetPath = "/auth/jwks"
)
