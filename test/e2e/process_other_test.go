//go:build e2e && !linux

package e2e

import "syscall"

func endWithUs() *syscall.SysProcAttr { return nil }
