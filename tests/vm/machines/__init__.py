"""Tests of `vm/`: kernels, images, machines and saves of warm guests."""
