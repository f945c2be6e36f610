package main

type coldCase struct{}
