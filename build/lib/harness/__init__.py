"""What keeps a run, whatever it trains: its files, lock, resume, device, signals and curves.

    with Keeper("awd_lstm/main.py", args) as keeper:      exit codes, device, lock
        run = build(args, keeper)
        keeper.resume(run)                                files, curves, signals; where it stopped
        while run.progress.epoch <= args.epochs and not keeper.out_of_steps():
            train_epoch(run)                              keeper.after_update() in it
            end_of_epoch(run)
        test(run)

keeper.py says what a run must offer. Nothing here knows a paper, a model or a text.
"""
