package worker

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/jobs"
)

type Config struct {
	Store        jobs.Store
	Run          func(ctx context.Context, j *jobs.Job, l *jobs.Lease, save func(context.Context, json.RawMessage) error) (jobs.Result, error)
	RemoveBytes  func(ctx context.Context, id jobs.ID) error
	SweepOrphans func(ctx context.Context, known func(jobs.ID) bool, olderThan time.Duration) error
	Concurrency  int
	LeaseTTL     time.Duration
	Registerer   prometheus.Registerer
	Logger       *slog.Logger
	Name         string
	SweepEvery   time.Duration
}
type Worker struct{}

func New(Config) *Worker                          { return nil }
func (w *Worker) Run(ctx context.Context) error { return nil }
