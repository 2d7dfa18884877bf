package process

import "syscall"

// endWithUs makes a child end when the test process is killed.
func endWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
