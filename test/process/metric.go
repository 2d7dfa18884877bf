package process

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Metric sums the series of a metric whose labels hold all of the given texts.
// admin is the URL of the admin listener.
func Metric(admin, name string, labels ...string) (sum float64, err error) {
	client := http.Client{Timeout: patience} // the process may be frozen
	answer, err := client.Get(admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
next:
	for _, line := range Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue next
			}
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value); err != nil {
			return 0, fmt.Errorf("metric line %q: %w", line, err)
		}
		sum += value
	}
	return sum, nil
}
