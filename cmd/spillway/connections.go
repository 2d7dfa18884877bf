package main

import (
	"net"
	"sync"
)

// limited is a listener with so many connections at once at most; others wait to
// be taken. Unlike netutil's, its connections can be closed in one direction,
// without which a client does not see why its request was refused.
type limited struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limit(l net.Listener, connections int) *limited {
	return &limited{Listener: l, slots: make(chan struct{}, connections), closed: make(chan struct{})}
}

// Accept waits for a connection, and for one fewer.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	release := sync.OnceFunc(func() { <-l.slots })
	return &limitedConn{c.(*net.TCPConn), release}, nil // listen takes no other
}

// Close ends the listener, and whoever waits in Accept.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	*net.TCPConn
	release func()
}

// Close lets another connection in.
func (c *limitedConn) Close() error {
	defer c.release()
	return c.TCPConn.Close()
}
