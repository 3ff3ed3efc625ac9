//go:build !amd64 && !arm64

package index

func machineKernels() []Kernel { return nil }
