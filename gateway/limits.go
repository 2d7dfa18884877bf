package gateway

// Limits bound what one client may ask for: by its id, or by its address where
// nobody says who it is. Rates are of each process. The zero value is far above
// what a polite client does.
type Limits struct {
	// KickOffs are requests for an export. Zero: 60 a minute, 30 at once.
	KickOffs Rate
	// Polls are requests for the status of exports, all taken together. Zero:
	// 1200 a minute, 200 at once.
	Polls Rate
	// Downloads are requests for files. Zero: 6000 a minute, 1000 at once.
	Downloads Rate
	// Exports is how many exports of a client may be unfinished, those that wait
	// for their turn included. Zero: 100; negative: any number. How many
	// of them are worked on at once is jobs.Limits.MaxActivePerOwner.
	Exports int
}

// A Rate is how often something may be done. The zero value means a default.
type Rate struct {
	PerMinute float64 // negative: without limit
	Burst     int     // how often at once; 0: half of PerMinute, at least 1
}
