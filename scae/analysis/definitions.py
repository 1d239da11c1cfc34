"""What every number of an analysis is, in a sentence each: analysis.json has them, and docs/analysis.md."""

DEFINITIONS: dict[str, str] = {
    "n_tokens": "positions of the text that was looked at, windows x context, those that are no text included",
    "n_live": "positions that are text: neither a BOS, nor a separator, nor padding, nor left out by the configuration",
    "pass": "plain: every dictionary reads the model's own activations; pruned: every feature reads the base and its "
    "connections; both of one suite, that which the experiment is about",
    "l0": "mean number of activations > 0 at a live token",
    "l1": "mean sum of the activations at a live token, in the unit of the site",
    "fvu": "sum ||y - yhat||^2 / sum ||y - mean y||^2 over live tokens, y what the site's module writes in the clean "
    "run (or what stands at its point), yhat the reconstruction; the mean is that of this text",
    "explained_variance": "1 - sum ||e - mean e||^2 / sum ||y - mean y||^2 with the error e = y - yhat: 1 - fvu, but "
    "for an error that is the same at every token, which it forgives",
    "cosine": "mean over live tokens of the cosine between y and yhat",
    "mse": "mean over live tokens and dimensions of the squared error, in the unit of what the site writes",
    "dead": "features that do not fire at any live token in this pass, a count out of out_of",
    "never_fired": "features that do not fire in any pass (state 1), a count out of out_of",
    "plain_only": "features that fire in the plain pass and not in the pruned one (state 2), a count out of out_of",
    "no_input": "features that fire in the pruned pass and have no incoming connection although there are sites "
    "upstream (state 3), a count out of out_of",
    "out_of": "features of the site",
    "density": "features by log10 of their rate, between successive edges; features that do not fire are in none",
    "rate": "share of the live tokens at which the feature fires: its activation is > 0",
    "mean": "mean activation over the tokens at which it fires",
    "max": "largest activation",
    "histogram": "number of the tokens at which it fires by activation, in 20 bins of equal width from 0 to max",
    "top": "the tokens of the largest activations, at most one a window",
    "quantile": "the tokens at which it fires in 4 bands of equal counts, strongest first; 4 drawn of each",
    "promoted": "the tokens of the vocabulary whose logits an activation of 1 raises most when it reaches the final "
    "stream directly: decoder row (of a crosslayer feature all of its layers) through the final normalisation at its "
    "mean clean scale and the unembedding, less the mean over the vocabulary",
    "suppressed": "the same, of those that it lowers most",
    "agreement": "correlation over all live tokens of a feature's activations in the plain and in the pruned pass",
    "jaccard": "tokens at which a feature fires in both passes, over those at which it fires in one of them",
    "mean_correlation": "mean of agreement over the features of a site for which it is defined",
    "mean_jaccard": "mean of jaccard over the features of a site that fire in some pass",
    "state": "0 alive; 1 never fires, in any pass; 2 fires in the plain pass and not in the pruned one; 3 fires in the "
    "pruned pass and has no incoming connection although there are sites upstream",
    "weight": "virtual weight of a connection, encoder row times decoder row along the frozen path, heads summed",
    "inputs_mean": "mean over the tokens at which the downstream feature fires in the pruned pass of what the "
    "connection adds to its pre-activation, exactly as that pass computes it",
    "inputs_constant": "mean over the same tokens of what the pre-activation owes to no connection: embedding (unless "
    "it is a site), biases, modules without a dictionary, positions that are not live",
    "inputs_total": "mean over the same tokens of the pre-activation: inputs_constant plus all inputs_mean",
    "ablation": "cross-entropy of the live model in nats a token above its own (clean), with what a site stands for "
    "replaced at live positions, one site alone and all",
    "zero": "ablation: replaced by 0",
    "mean_ablation": "ablation mean: replaced by the mean over this text",
    "reconstruction": "ablation: replaced by the reconstruction; one alone: of the plain pass; all: of the spliced "
    "pass, where every dictionary reads what the others make of the model",
    "similar": "features of all sites with the largest cosine between decoder rows",
    "coactive": "features of all sites that fire with it, by Jaccard; correlation over all live tokens, PMI in nats",
    "clusters": "groups of features that fire together: Markov clustering of the graph of coactive neighbours",
    "faithfulness": "an upstream feature's decoder row, times its activation, is added to what its module writes, in "
    "the live model at a token where it fires; predicted: by how much the connection says that a downstream "
    "pre-activation moves; live: by how much it does",
    "faithfulness_by_distance": "the same by the number of levels of modules from the one to the other",
    "rank": "Spearman's correlation between predicted and live changes",
    "r2": "1 - sum (live - predicted)^2 / sum (live - mean live)^2: of the prediction as it is",
    "slope": "sum live predicted / sum predicted^2",
    "sign": "share of the changes of which both have the same sign",
    "frozen": "the same of the stream that reaches the downstream module, read with the scales and patterns of before",
    "scalar": "mean KL(model || pruned pass) in nats along the n strongest connections; absolute: its integral over n, "
    "relative: its mean over n, log_area: its mean over log n",
    "explained": "of the circuits of prompts, not cut down, as means over prompts: the beginnings of windows, up to 16 "
    "tokens; scores of Ameisen et al. 2025, weighted by influence on the logits",
    "replacement": "of the influence on the logits that begins at tokens and errors, the share of tokens",
    "completeness": "the share of what nodes read that is no error, each node weighted by its influence",
    "strict_replacement": "the same with what the plain pass would add to each pre-activation counted as an error: "
    "connections that were cut",
    "strict_completeness": "the same, counted so",
    "constant": "the share of biases in the absolute edges into features and logits, weighted by influence",
}
