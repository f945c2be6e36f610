// Command kmsstub serves the KMS test peer, for trying the proxy against a KMS without an AWS account.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:4599", "address to listen on; keep it on loopback: every caller may use every key")
	region := flag.String("region", "eu-central-1", "region of the keys")
	aliases := flag.String("alias", "alias/temporal-default", "aliases to create a key for each, separated by commas")
	keep := flag.String("keep", "", "`file` to keep the keys in, readable by you alone; aliases that it holds are not made anew")
	flag.Parse()

	s := kmsstub.New(kmsstub.Options{Region: *region})
	if *keep != "" {
		exitOn(s.Keep(*keep))
	}
	for _, alias := range strings.Split(*aliases, ",") {
		if !s.HasAlias(alias) {
			s.SetAlias(alias, s.CreateKey(false))
		}
	}
	exitOn(s.Save())
	exitOn(s.Start(*listen))
	if *keep == "" {
		fmt.Println("keys live in memory only: what is sealed with them is lost when this ends")
	}
	for _, alias := range strings.Split(*aliases, ",") {
		fmt.Printf("awskms://%s?region=%s&endpoint=%s\n", alias, *region, s.URL)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	s.Close()
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kmsstub:", err)
		os.Exit(1)
	}
}
