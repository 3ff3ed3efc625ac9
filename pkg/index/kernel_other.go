//go:build !amd64

package index

func machineKernels() []Kernel { return nil }
